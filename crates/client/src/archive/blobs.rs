//! The blobs of files, in the order they are needed.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use proto::Raw;
use proto::attr::{AttrGet, Name};
use proto::content::ContentLoad;
use rpc::{Call, Dest, Handle, RpcError};
use spec::archive::Region;
use types::Errno;

use super::shared::{Part, Piece, Provider, Taker};
use crate::{Client, Uri, open};

/// Loads under way: so many bytes, and so many blobs. Together they keep every hop busy without
/// holding much more than a socket does.
const AHEAD_BYTES_MAX: u64 = 8 << 20;
const AHEAD_BLOBS_MAX: usize = 64;

/// Fewer bytes are not worth the trouble of sharing.
const SHARED_BYTES_MIN: u64 = 4 << 20;

/// A blob.
pub(super) enum Blob {
    /// As the broker sent it.
    Loaded(Bytes),
    /// In memory shared with others.
    Shared(Piece),
}

/// The blobs of a list of regions, one after the other.
pub(super) struct Blobs<'a> {
    ahead: Ahead<'a>,
    source: Source,
    /// The connection to another broker, if blobs come from there.
    _nearest: Option<Client>,
}

enum Source {
    /// From the broker.
    Alone,
    /// From the broker, and on to others.
    Provider(Provider),
    /// From another client on this host.
    Taker(Taker),
}

impl<'a> Blobs<'a> {
    pub(super) async fn new(handle: &Handle, regions: Vec<&'a Region>) -> Blobs<'a> {
        let mut blobs = Blobs {
            ahead: Ahead {
                handle: handle.clone(),
                todo: regions.into(),
                calls: VecDeque::new(),
                bytes: 0,
            },
            source: Source::Alone,
            _nearest: None,
        };
        let todo = &blobs.ahead.todo;
        if todo.iter().map(|region| region.size).sum::<u64>() < SHARED_BYTES_MIN {
            return blobs;
        }
        let Some((own, nearest)) = sockets(handle).await else {
            return blobs;
        };
        match Part::find(todo.iter().copied()) {
            None => {}
            Some(Part::Taker(taker)) => blobs.source = Source::Taker(taker),
            Some(Part::Provider(provider)) => {
                blobs.source = Source::Provider(provider);
                if own != nearest {
                    let uri = format!("local://{}", nearest.display());
                    // The client's own broker has everything too, only further from the root.
                    if let Ok(client) = open(Some(&uri)).await {
                        blobs.ahead.handle = client.handle().clone();
                        blobs._nearest = Some(client);
                    }
                }
            }
        }
        blobs
    }

    /// The next blob.
    ///
    /// # Errors
    ///
    /// Those of [`ContentLoad`]; `EINVAL` if it has another size than its region.
    pub(super) async fn next(&mut self) -> Result<Blob, RpcError> {
        if let Source::Taker(taker) = &mut self.source {
            let size = self.ahead.todo.front().map_or(0, |region| region.size);
            if let Ok(piece) = taker.next(size).await {
                self.ahead.todo.pop_front();
                return Ok(Blob::Shared(piece));
            }
            self.source = Source::Alone;
        }
        let blob = self.ahead.next().await?;
        if let Source::Provider(provider) = &mut self.source
            && provider.put(&blob).await.is_err()
        {
            self.source = Source::Alone;
        }
        Ok(Blob::Loaded(blob))
    }

    /// Everything has been read.
    pub(super) async fn finish(self) {
        if let Source::Provider(provider) = self.source {
            // Those who wait for more load it themselves.
            let _handed_on = provider.finish().await;
        }
    }
}

/// The socket of the client's broker, and of the one nearest to the root, if several brokers of
/// its instance have theirs here.
async fn sockets(handle: &Handle) -> Option<(PathBuf, PathBuf)> {
    let name = Name {
        name: "local-uri".to_owned(),
    };
    let uri = handle.call::<AttrGet>(Dest::Any, &name).await.ok()?.value;
    let Ok(Uri::Local(own)) = Uri::parse(&uri) else {
        return None;
    };
    let mut ranks = Vec::new();
    for entry in own.parent()?.read_dir().ok()? {
        let name = entry.ok()?.file_name();
        ranks.extend(rank(Path::new(&name)));
    }
    let nearest = own.with_file_name(format!("local-{}", ranks.iter().min()?));
    (ranks.len() > 1 && rank(&own).is_some()).then_some((own, nearest))
}

/// The rank in the name of a socket where several brokers share a directory.
fn rank(socket: &Path) -> Option<u32> {
    let name = socket.file_name()?.to_str()?;
    name.strip_prefix("local-")?.parse().ok()
}

/// Loads of blobs, ahead of their use.
struct Ahead<'a> {
    handle: Handle,
    todo: VecDeque<&'a Region>,
    calls: VecDeque<(u64, Call<Raw>)>,
    bytes: u64,
}

impl Ahead<'_> {
    async fn next(&mut self) -> Result<Bytes, RpcError> {
        while self.calls.is_empty()
            || (self.bytes < AHEAD_BYTES_MAX && self.calls.len() < AHEAD_BLOBS_MAX)
        {
            let Some(region) = self.todo.pop_front() else {
                break;
            };
            let digest = Raw(Bytes::copy_from_slice(region.blobref.digest()));
            let call = self.handle.call::<ContentLoad>(Dest::Any, &digest);
            self.bytes += region.size;
            self.calls.push_back((region.size, call));
        }
        let Some((size, call)) = self.calls.pop_front() else {
            return Err(Errno::ENOENT.into());
        };
        self.bytes -= size;
        let Raw(blob) = call.await?;
        if blob.len() as u64 == size {
            Ok(blob)
        } else {
            Err(RpcError::new(Errno::EINVAL, "blob has the wrong size"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_tell_ranks_where_brokers_share_a_directory() {
        for (path, expect) in [
            ("/tmp/flux-1/local-0", Some(0)),
            ("/tmp/flux-1/local-17", Some(17)),
            ("/run/flux/local", None),
            ("/tmp/flux-1/local-", None),
            ("/tmp/flux-1/remote-1", None),
        ] {
            assert_eq!(rank(Path::new(path)), expect, "{path}");
        }
    }
}
