//! A thread that does what would hold up the broker's: file I/O and hashing.

use std::sync::mpsc;

use rpc::RpcError;
use tokio::sync::oneshot;
use types::Errno;

type Errand = Box<dyn FnOnce() + Send>;

/// The entrance to the thread, which ends when this is dropped. Errands are done in order.
pub(crate) struct Errands(mpsc::Sender<Errand>);

impl Errands {
    /// Starts a thread of that name.
    ///
    /// # Errors
    ///
    /// There is no thread to be had.
    pub(crate) fn start(name: &str) -> Result<Errands, RpcError> {
        let (sender, receiver) = mpsc::channel::<Errand>();
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || {
                while let Ok(errand) = receiver.recv() {
                    errand();
                }
            })
            .map_err(|error| RpcError::new(Errno::from_io(&error), error.to_string()))?;
        Ok(Errands(sender))
    }

    /// Does an errand; what is returned resolves to its result. It is done even if that is dropped.
    ///
    /// # Errors
    ///
    /// Those of the errand; `EIO` if one before it panicked.
    pub(crate) fn run<T, F>(
        &self,
        errand: F,
    ) -> impl Future<Output = Result<T, RpcError>> + use<T, F>
    where
        T: Send + 'static,
        F: FnOnce() -> Result<T, RpcError> + Send + 'static,
    {
        let (sender, receiver) = oneshot::channel();
        let errand: Errand = Box::new(move || {
            // Whoever asked may have ended since.
            let _ended = sender.send(errand());
        });
        // An errand that is not taken drops its sender, which shows below.
        let _panicked = self.0.send(errand);
        async move {
            let panicked = |_| Err(RpcError::new(Errno::EIO, "a thread of the module panicked"));
            receiver.await.unwrap_or_else(panicked)
        }
    }
}
