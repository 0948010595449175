//! The socket on which test scripts stop, await and restart single brokers.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::BytesMut;
use proto::Empty;
use proto::start::{
    Exited, Kill, OfRank, Process, StartKill, StartRun, StartStatus, StartWait, Status,
};
use rpc::{Handle, Request, Routes, RpcError, Transport};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use types::{Cred, Errno, RoleMask, UserId};
use wire::{Message, StreamDecoder, encode_stream};

use super::Instance;

/// The listening socket; dropping it stops the service.
pub(super) struct Service(tokio::task::JoinHandle<()>);

impl Drop for Service {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Serves `RUNDIR/start`.
pub(super) fn listen(instance: &Rc<Instance>) -> Result<Service, String> {
    let path = instance.rundir.join("start");
    let error = |error: std::io::Error| format!("{}: {error}", path.display());
    let listener: UnixListener = crate::connector::bind(&path).map_err(error)?;
    let instance = instance.clone();
    Ok(Service(tokio::task::spawn_local(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::task::spawn_local(client(instance.clone(), stream));
        }
    })))
}

struct Output {
    messages: mpsc::UnboundedSender<Message>,
    /// Whose messages they are: clients pass over those of nobody.
    cred: Cred,
}

impl Transport for Output {
    fn send(&self, mut message: Message) {
        message.cred = self.cred;
        // A client that left needs no answer.
        let _gone = self.messages.send(message);
    }
}

fn routes() -> Routes<Rc<Instance>> {
    Routes::new()
        .on::<StartStatus>(|instance: &mut Rc<Instance>, request, Empty {}| {
            let procs = instance
                .members
                .borrow()
                .iter()
                .map(|member| Process {
                    pid: member.pid.map_or(-1, |pid| pid as i32),
                })
                .collect();
            request.reply(&Status { procs });
        })
        .on::<StartKill>(|instance, request, kill: Kill| {
            request.reply_result(&signal(instance, &kill).map(|()| Empty {}));
        })
        .on::<StartWait>(|instance, request, of: OfRank| {
            tokio::task::spawn_local(wait(instance.clone(), request, of.rank));
        })
        .on::<StartRun>(|instance, request, of: OfRank| {
            let result = match pid(instance, of.rank) {
                Err(error) => Err(error),
                Ok(Some(_)) => Err(RpcError::from(Errno::EEXIST)),
                Ok(None) => instance
                    .spawn(of.rank)
                    .map_err(|text| RpcError::new(Errno::EIO, text)),
            };
            request.reply_result(&result.map(|()| Empty {}));
        })
        .on_message("disconnect", proto::Access::Any, |_, _, _| {})
}

/// The process of a rank, `None` if it does not run.
fn pid(instance: &Instance, rank: u32) -> Result<Option<u32>, RpcError> {
    let members = instance.members.borrow();
    match members.get(rank as usize) {
        Some(member) => Ok(member.pid),
        None => Err(RpcError::new(
            Errno::ENOENT,
            format!("rank {rank} does not exist"),
        )),
    }
}

fn signal(instance: &Instance, kill: &Kill) -> Result<(), RpcError> {
    let pid = pid(instance, kill.rank)?.ok_or(RpcError::from(Errno::ESRCH))?;
    let signal = nix::sys::signal::Signal::try_from(kill.signum)
        .map_err(|errno| RpcError::from(Errno(errno as i32)))?;
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid as i32), signal)
        .map_err(|errno| Errno(errno as i32).into())
}

async fn wait(instance: Rc<Instance>, request: Request<StartWait>, rank: u32) {
    let ended = {
        let members = instance.members.borrow();
        match members.get(rank as usize) {
            Some(member) => member.ended.clone(),
            None => return request.fail(Errno::ENOENT),
        }
    };
    loop {
        let notified = ended.notified();
        let code = {
            let members = instance.members.borrow();
            let member = &members[rank as usize];
            if member.pid.is_none() {
                Some(member.code.unwrap_or(0))
            } else {
                None
            }
        };
        match code {
            Some(exit_rc) => return request.reply(&Exited { exit_rc }),
            None => notified.await,
        }
    }
}

async fn client(instance: Rc<Instance>, mut stream: UnixStream) {
    let own = nix::unistd::getuid().as_raw();
    let allowed = stream.peer_cred().is_ok_and(|peer| peer.uid() == own);
    let first = if allowed { 0 } else { Errno::EPERM.0 as u8 };
    if stream.write_all(&[first]).await.is_err() || !allowed {
        return;
    }
    let name = uuid::Uuid::new_v4().to_string();
    if instance.options.verbose > 0 {
        types::complain!("flux-start: hi {}", &name[..5]);
    }
    let (output, mut output_rx) = mpsc::unbounded_channel();
    let handle = Handle::new(Rc::new(Output {
        messages: output,
        cred: Cred {
            userid: UserId(own),
            rolemask: RoleMask::OWNER,
        },
    }));
    let (mut reader, mut writer) = stream.into_split();
    let write = async {
        while let Some(message) = output_rx.recv().await {
            let mut bytes = BytesMut::new();
            encode_stream(&message, &mut bytes);
            if writer.write_all(&bytes).await.is_err() {
                break;
            }
        }
    };
    let state = RefCell::new(instance.clone());
    let read = async {
        let mut decoder = StreamDecoder::new();
        while reader
            .read_buf(decoder.buffer())
            .await
            .is_ok_and(|count| count > 0)
        {
            loop {
                match decoder.next() {
                    Ok(Some(mut message)) => {
                        let rolemask = RoleMask::OWNER | RoleMask::LOCAL;
                        message.cred = Cred {
                            userid: UserId(own),
                            rolemask,
                        };
                        routes().dispatch(&mut state.borrow_mut(), &handle, message);
                    }
                    Ok(None) => break,
                    Err(error) => return types::complain!("flux-start: client: {error}"),
                }
            }
        }
    };
    tokio::select! { () = write => {}, () = read => {} }
    if instance.options.verbose > 0 {
        types::complain!("flux-start: bye {}", &name[..5]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_the_owners() {
        let (messages, mut sent) = mpsc::unbounded_channel();
        let cred = Cred {
            userid: UserId(1000),
            rolemask: RoleMask::OWNER,
        };
        let output = Output { messages, cred };
        output.send(Message::event("start.status".to_owned().into()));
        assert_eq!(sent.try_recv().expect("sent").cred, cred);
    }
}
