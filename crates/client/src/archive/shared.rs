//! Blobs for everybody on a host who extracts the same files at the same time.
//!
//! Where several brokers of an instance share a host, as in a test or with one broker a socket,
//! every blob would go through each of them. Instead the first of their clients, the *provider*,
//! loads the blobs and hands them on in *segments*: sealed memory files, passed over an abstract
//! Unix socket. Its name tells the blobs and their order, so whoever wants the same finds it.
//!
//! Nothing depends on it. A provider that ends early, is slow or is somebody else's leaves its
//! takers to load the rest themselves. Seals make a segment what it was when it was sent, and a
//! segment goes away with its last user, however that ends.

use std::fs::File;
use std::io::{self, ErrorKind, IoSlice, IoSliceMut};
use std::os::fd::{AsFd, AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::rc::Rc;
use std::time::Duration;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::socket::sockopt::{PeerCredentials, SndBuf};
use nix::sys::socket::{
    AddressFamily, Backlog, ControlMessage, ControlMessageOwned, MsgFlags, SockFlag, SockType,
    UnixAddr, accept4, bind, connect, getsockopt, listen, recvmsg, sendmsg, setsockopt, socket,
};
use nix::unistd::geteuid;
use spec::archive::Region;
use spec::{BlobRef, HashKind};
use tokio::io::unix::AsyncFd;

/// A segment is sent when it holds so many bytes: little enough that takers begin soon, enough that
/// passing it costs nothing to speak of.
const SEGMENT_BYTES: u64 = 8 << 20;
/// Segments kept for those who come late.
const KEPT_MAX: usize = 32;
/// Makes room for some twenty segments that a taker has not taken, before the provider waits for
/// it; in bytes, as the kernel counts a message.
const BACKLOG_BYTES: usize = 8 << 10;
/// How long a provider waits for a taker that is so far behind, and a taker for its next segment.
const PATIENCE: Duration = Duration::from_secs(2);

const SEALS: SealFlag = SealFlag::F_SEAL_SHRINK
    .union(SealFlag::F_SEAL_GROW)
    .union(SealFlag::F_SEAL_WRITE);

/// A client's part.
pub(super) enum Part {
    Provider(Provider),
    Taker(Taker),
}

impl Part {
    /// Finds this client's part in handing on blobs; `None` if it is alone or not possible.
    pub(super) fn find<'a>(regions: impl Iterator<Item = &'a Region>) -> Option<Part> {
        let address = address(regions)?;
        // A provider may end between the two steps, and a name is taken before it is listened at.
        for _ in 0..3 {
            match Provider::new(&address) {
                Ok(provider) => return Some(Part::Provider(provider)),
                Err(Errno::EADDRINUSE) => {}
                Err(_) => return None,
            }
            match Taker::new(&address) {
                Ok(taker) => return Some(Part::Taker(taker)),
                Err(Errno::ECONNREFUSED) => std::thread::yield_now(),
                Err(_) => return None,
            }
        }
        None
    }
}

/// The name under which these blobs are handed on.
fn address<'a>(regions: impl Iterator<Item = &'a Region>) -> Option<UnixAddr> {
    let mut text = Vec::new();
    for Region { size, blobref, .. } in regions {
        text.extend_from_slice(&size.to_ne_bytes());
        text.extend_from_slice(blobref.digest());
    }
    let digest = BlobRef::hash(HashKind::Sha256, &text);
    UnixAddr::new_abstract(format!("flux-extract-{digest}").as_bytes()).ok()
}

fn seqpacket() -> nix::Result<OwnedFd> {
    let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
    socket(AddressFamily::Unix, SockType::SeqPacket, flags, None)
}

/// Whether the other end belongs to the same user.
fn is_ours(socket: &impl AsFd) -> bool {
    getsockopt(socket, PeerCredentials).is_ok_and(|peer| peer.uid() == geteuid().as_raw())
}

/// What a provider has sent or will send: so many blobs, one after the other.
struct Segment {
    memory: OwnedFd,
    blobs: u32,
}

/// The client that loads blobs and hands them on.
pub(super) struct Provider {
    listener: OwnedFd,
    takers: Vec<AsyncFd<OwnedFd>>,
    /// All segments so far, or none once there were too many to keep.
    kept: Option<Vec<Rc<Segment>>>,
    /// The one being filled: its memory, bytes and blobs.
    filling: Option<(File, u64, u32)>,
}

impl Provider {
    fn new(address: &UnixAddr) -> nix::Result<Provider> {
        let listener = seqpacket()?;
        bind(listener.as_raw_fd(), address)?;
        listen(&listener, Backlog::MAXALLOWABLE)?;
        Ok(Provider {
            listener,
            takers: Vec::new(),
            kept: Some(Vec::new()),
            filling: None,
        })
    }

    /// Hands on the next blob.
    ///
    /// # Errors
    ///
    /// There is no memory for it. The provider is then to be dropped.
    pub(super) async fn put(&mut self, blob: &[u8]) -> io::Result<()> {
        let (memory, used, blobs) = match &mut self.filling {
            Some(filling) => filling,
            None => {
                let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
                let memory = File::from(memfd_create("flux-extract", flags)?);
                self.filling.insert((memory, 0, 0))
            }
        };
        memory.write_all_at(blob, *used)?;
        *used += blob.len() as u64;
        *blobs += 1;
        if *used >= SEGMENT_BYTES {
            self.send().await?;
        }
        Ok(())
    }

    /// Hands on what is left.
    ///
    /// # Errors
    ///
    /// As for [`Provider::put`].
    pub(super) async fn finish(mut self) -> io::Result<()> {
        self.send().await
    }

    async fn send(&mut self) -> io::Result<()> {
        self.welcome().await;
        let Some((memory, _, blobs)) = self.filling.take() else {
            return Ok(());
        };
        fcntl(&memory, FcntlArg::F_ADD_SEALS(SEALS))?;
        let memory = OwnedFd::from(memory);
        let segment = Rc::new(Segment { memory, blobs });
        self.kept = self.kept.take().filter(|kept| kept.len() < KEPT_MAX);
        if let Some(kept) = &mut self.kept {
            kept.push(segment.clone());
        }
        for taker in std::mem::take(&mut self.takers) {
            if give(&taker, &segment).await {
                self.takers.push(taker);
            }
        }
        Ok(())
    }

    /// Takes in whoever has come, and gives them what they have missed. They are turned away if that
    /// is gone.
    async fn welcome(&mut self) {
        let flags = SockFlag::SOCK_NONBLOCK | SockFlag::SOCK_CLOEXEC;
        while let Ok(fd) = accept4(self.listener.as_raw_fd(), flags) {
            let taker = own(fd);
            let Some(kept) = &self.kept else { continue };
            if !is_ours(&taker) || setsockopt(&taker, SndBuf, &BACKLOG_BYTES).is_err() {
                continue;
            }
            let Ok(taker) = register(taker) else {
                continue;
            };
            let mut has_all = true;
            for segment in kept {
                has_all = has_all && give(&taker, segment).await;
            }
            if has_all {
                self.takers.push(taker);
            }
        }
    }
}

/// Takes over a descriptor the kernel has just made for us.
#[expect(unsafe_code, reason = "nix passes these as numbers")]
fn own(fd: i32) -> OwnedFd {
    // SAFETY: it is new, and nobody else knows of it.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

#[expect(unsafe_code, reason = "tokio wants a promise about the descriptor")]
fn register(socket: OwnedFd) -> io::Result<AsyncFd<OwnedFd>> {
    // SAFETY: an owned descriptor stays open and the same until it is dropped, which happens only
    // after it is deregistered.
    Ok(unsafe { AsyncFd::register(socket) }?)
}

/// Passes a segment; `false` if the taker has gone or takes nothing.
async fn give(taker: &AsyncFd<OwnedFd>, segment: &Segment) -> bool {
    let blobs = segment.blobs.to_ne_bytes();
    let pass = || {
        let fds = [segment.memory.as_raw_fd()];
        let message = [ControlMessage::ScmRights(&fds)];
        let flags = MsgFlags::MSG_NOSIGNAL;
        let parts = [IoSlice::new(&blobs)];
        let sent = sendmsg::<()>(taker.as_raw_fd(), &parts, &message, flags, None);
        sent.map_err(io::Error::from)
    };
    let passing = async {
        loop {
            let mut ready = taker.writable().await?;
            if let Ok(sent) = ready.try_io(|_| pass()) {
                return sent;
            }
        }
    };
    matches!(tokio::time::timeout(PATIENCE, passing).await, Ok(Ok(_)))
}

/// A blob in a segment.
pub(super) struct Piece {
    pub(super) memory: Rc<File>,
    pub(super) offset: u64,
    pub(super) size: u64,
}

/// A client that gets its blobs from a provider.
pub(super) struct Taker {
    socket: AsyncFd<OwnedFd>,
    /// The segment being used: its memory, the bytes used of it, and the blobs that are left.
    current: Option<(Rc<File>, u64, u32)>,
}

impl Taker {
    fn new(address: &UnixAddr) -> nix::Result<Taker> {
        let socket = seqpacket()?;
        connect(socket.as_raw_fd(), address)?;
        if !is_ours(&socket) {
            return Err(Errno::EPERM);
        }
        let socket = register(socket).map_err(|_| Errno::EMFILE)?;
        Ok(Taker {
            socket,
            current: None,
        })
    }

    /// The next blob, which has this size.
    ///
    /// # Errors
    ///
    /// There are no more to be had. The taker is then to be dropped.
    pub(super) async fn next(&mut self, size: u64) -> io::Result<Piece> {
        let (memory, used, blobs) = match &mut self.current {
            Some(current) if current.2 > 0 => current,
            _ => {
                let (memory, blobs) = self.receive().await?;
                self.current.insert((Rc::new(memory), 0, blobs))
            }
        };
        let offset = *used;
        *used += size;
        *blobs -= 1;
        let end = memory.metadata()?.size();
        // The last blob ends where the segment does.
        if *used > end || (*blobs == 0) != (*used == end) {
            return Err(ErrorKind::InvalidData.into());
        }
        Ok(Piece {
            memory: memory.clone(),
            offset,
            size,
        })
    }

    async fn receive(&self) -> io::Result<(File, u32)> {
        let receiving = async {
            loop {
                let mut ready = self.socket.readable().await?;
                if let Ok(received) = ready.try_io(|socket| receive(socket.get_ref())) {
                    return received;
                }
            }
        };
        let received = tokio::time::timeout(PATIENCE, receiving).await;
        received.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
    }
}

fn receive(socket: &OwnedFd) -> io::Result<(File, u32)> {
    let mut blobs = [0; 4];
    let mut space = nix::cmsg_space!([i32; 1]);
    let mut parts = [IoSliceMut::new(&mut blobs)];
    let flags = MsgFlags::MSG_CMSG_CLOEXEC;
    let received = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), flags)?;
    let length = received.bytes;
    let mut memory = None;
    for message in received.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = message {
            for fd in fds {
                memory = Some(own(fd));
            }
        }
    }
    let Some(memory) = memory else {
        return Err(ErrorKind::UnexpectedEof.into());
    };
    let seals = SealFlag::from_bits_truncate(fcntl(&memory, FcntlArg::F_GET_SEALS)?);
    let blobs = u32::from_ne_bytes(blobs);
    if length != 4 || blobs == 0 || !seals.contains(SEALS) {
        return Err(ErrorKind::InvalidData.into());
    }
    Ok((File::from(memory), blobs))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regions of blobs nobody else has.
    fn regions(blobs: &[Vec<u8>]) -> Vec<Region> {
        let region = |blob: &Vec<u8>| Region {
            offset: 0,
            size: blob.len() as u64,
            blobref: BlobRef::hash(HashKind::Sha1, blob),
        };
        blobs.iter().map(region).collect()
    }

    fn blobs(name: &str, sizes: &[usize]) -> Vec<Vec<u8>> {
        let blob = |(at, size): (usize, &usize)| {
            let mut blob = format!("{name} {at} {}", std::process::id()).into_bytes();
            blob.resize(*size, at as u8);
            blob
        };
        sizes.iter().enumerate().map(blob).collect()
    }

    fn provider(regions: &[Region]) -> Provider {
        match Part::find(regions.iter()) {
            Some(Part::Provider(provider)) => provider,
            _ => panic!("no provider"),
        }
    }

    fn taker(regions: &[Region]) -> Taker {
        match Part::find(regions.iter()) {
            Some(Part::Taker(taker)) => taker,
            _ => panic!("no taker"),
        }
    }

    async fn take(taker: &mut Taker, size: usize) -> io::Result<Vec<u8>> {
        let piece = taker.next(size as u64).await?;
        let mut bytes = vec![0; size];
        piece.memory.read_exact_at(&mut bytes, piece.offset)?;
        Ok(bytes)
    }

    #[tokio::test(flavor = "current_thread")]
    async fn takers_get_all_there_is_however_late() {
        let blobs = blobs("all", &[9 << 20, 100, 5, 8 << 20, 64]);
        let regions = regions(&blobs);
        let mut provider = provider(&regions);
        let mut early = taker(&regions);
        provider.put(&blobs[0]).await.unwrap();
        let mut late = taker(&regions);
        for blob in &blobs[1..] {
            provider.put(blob).await.unwrap();
        }
        provider.finish().await.unwrap();
        for taker in [&mut early, &mut late] {
            for blob in &blobs {
                assert!(take(taker, blob.len()).await.unwrap() == *blob);
            }
            let end = take(taker, 1).await.unwrap_err();
            assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_provider_that_ends_early_is_noticed_and_replaced() {
        let blobs = blobs("early", &[9 << 20, 100]);
        let regions = regions(&blobs);
        let mut first = provider(&regions);
        let mut taker = taker(&regions);
        first.put(&blobs[0]).await.unwrap();
        first.put(&blobs[1]).await.unwrap();
        drop(first);
        assert!(take(&mut taker, 9 << 20).await.unwrap() == blobs[0]);
        let end = take(&mut taker, 100).await.unwrap_err();
        assert_eq!(end.kind(), ErrorKind::UnexpectedEof);
        provider(&regions);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn sizes_that_do_not_fit_are_refused() {
        for (sizes, asked) in [(&[9 << 20][..], 8 << 20), (&[8 << 20], 9 << 20)] {
            let blobs = blobs("sizes", sizes);
            let regions = regions(&blobs);
            let mut provider = provider(&regions);
            let mut taker = taker(&regions);
            provider.put(&blobs[0]).await.unwrap();
            provider.finish().await.unwrap();
            let refused = take(&mut taker, asked).await.unwrap_err();
            assert_eq!(refused.kind(), ErrorKind::InvalidData, "{sizes:?} {asked}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn what_comes_too_late_is_turned_away() {
        let sizes = [SEGMENT_BYTES as usize; KEPT_MAX + 1];
        let blobs = blobs("late", &sizes);
        let regions = regions(&blobs);
        let mut provider = provider(&regions);
        for blob in &blobs {
            provider.put(blob).await.unwrap();
        }
        let mut taker = taker(&regions);
        provider.finish().await.unwrap();
        assert!(take(&mut taker, 1).await.is_err());
    }
}
