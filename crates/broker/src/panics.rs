//! What a panic means here: the end of the instance, in good order.
//!
//! A panic in a task ends that task and nothing else, so that what it owed others never comes. One
//! in a module's main task is noticed where the module is looked after; tasks that modules start,
//! and threads, have nobody who looks.

use std::panic;
use std::rc::Rc;
use std::sync::Arc;

use module::Severity;
use tokio::sync::Notify;

use crate::broker::Broker;

/// Tells of panics, in place of what the program does about them otherwise.
pub(crate) fn watch() -> Arc<Notify> {
    let happened = Arc::new(Notify::new());
    // The first one belongs to programs that end at once.
    drop(panic::take_hook());
    let report = panic::take_hook();
    let tell = happened.clone();
    panic::set_hook(Box::new(move |info| {
        report(info);
        tell.notify_one();
    }));
    happened
}

/// Treats each panic as the failure of a module.
pub(crate) async fn follow(broker: Rc<Broker>, happened: Arc<Notify>) {
    loop {
        happened.notified().await;
        broker.log(Severity::Crit, "panic: shutting down");
        broker.on_module_failure();
    }
}

#[cfg(test)]
mod tests {
    #[tokio::test]
    async fn a_panic_elsewhere_is_told() {
        let happened = super::watch();
        std::thread::spawn(|| panic!("as intended by this test"))
            .join()
            .expect_err("it panics");
        happened.notified().await;
        drop(std::panic::take_hook());
    }
}
