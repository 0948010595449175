//! Which blobs a backing store has, listed once instead of asked for one by one.

use client::Client;
use proto::Raw;
use proto::content::{BackingDigests, ROW_SIZE};
use spec::BlobRef;
use types::Errno;

use super::tree::LEADER;
use crate::fail::Fail;

/// The digests of a store's blobs.
pub(super) struct Digests {
    /// By first byte: ascending, one after another, each with its row.
    groups: Vec<bytes::Bytes>,
    size: usize,
}

impl Digests {
    /// Asks the store for its digests of that many bytes; `None` if it cannot list them.
    pub(super) async fn list(client: &Client, size: usize) -> Result<Option<Digests>, Fail> {
        let ask = |first: u8| {
            let first = Raw(vec![first].into());
            client.handle().call::<BackingDigests>(LEADER, &first)
        };
        let calls: Vec<_> = (0..=u8::MAX).map(ask).collect();
        client.drained().await;
        let mut groups = Vec::with_capacity(calls.len());
        for call in calls {
            match call.await {
                Ok(Raw(group)) => groups.push(group),
                Err(error) if error.errno == Errno::ENOSYS => return Ok(None),
                Err(error) => return Err(Fail::of("error listing blobs", error)),
            }
        }
        Ok(Some(Digests { groups, size }))
    }

    /// Whether the store has a blob.
    pub(super) fn has(&self, blobref: &BlobRef) -> bool {
        self.row(blobref).is_some()
    }

    /// What the store finds a blob by; `None` if it has not got it.
    pub(super) fn row(&self, blobref: &BlobRef) -> Option<&[u8]> {
        let digest = blobref.digest();
        let group = self.groups.get(usize::from(*digest.first()?))?;
        (digest.len() == self.size).then(|| find(group, digest))?
    }
}

/// What follows a digest in an ascending list of such, each with its row. All begin with the same
/// byte, and the next ones tell about where a digest is, since they are spread evenly; looking
/// there first touches much less memory.
fn find<'a>(list: &'a [u8], digest: &[u8]) -> Option<&'a [u8]> {
    let size = digest.len() + ROW_SIZE;
    let at = |index: usize| list[index * size..][..size].split_at(digest.len());
    let count = list.len() / size;
    let (mut from, mut to) = (0, count);
    if let Some(&[_, a, b, c, d]) = digest.first_chunk() {
        let part = u64::from(u32::from_be_bytes([a, b, c, d]));
        let guess = ((part * count as u64) >> 32) as usize;
        let spread = 2 * count.isqrt() + 16;
        let (low, high) = (guess.saturating_sub(spread), guess + spread);
        if low < count && at(low).0 <= digest {
            from = low;
        }
        if high < count && at(high).0 > digest {
            to = high;
        }
    }
    while from < to {
        let middle = from.midpoint(to);
        let (here, row) = at(middle);
        match here.cmp(digest) {
            std::cmp::Ordering::Equal => return Some(row),
            std::cmp::Ordering::Less => from = middle + 1,
            std::cmp::Ordering::Greater => to = middle,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_are_found() {
        let entry = |n: u8| [[7, n * 2].as_slice(), &[n; ROW_SIZE]].concat();
        let list: Vec<u8> = (0..100_u8).flat_map(entry).collect();
        for n in 0..=u8::MAX {
            let row = [n / 2; ROW_SIZE];
            let expect = (n % 2 == 0 && n < 200).then_some(row.as_slice());
            assert_eq!(find(&list, &[7, n]), expect, "{n}");
            assert_eq!(find(&[], &[7, n]), None);
        }
        assert_eq!((find(&list, &[6, 0]), find(&list, &[8, 0])), (None, None));
    }

    #[test]
    fn digests_are_found_however_they_are_spread() {
        let digest = |n: u32| [&[7], n.to_be_bytes().as_slice(), &[0; 15]].concat();
        for numbers in [
            (0..1000)
                .map(|n| n * (u32::MAX / 1000))
                .collect::<Vec<u32>>(),
            (0..1000).collect(),
            (u32::MAX - 1000..u32::MAX).collect(),
        ] {
            let entry = |n: &u32| [digest(*n).as_slice(), &[1; ROW_SIZE]].concat();
            let list: Vec<u8> = numbers.iter().step_by(2).flat_map(entry).collect();
            for (at, n) in numbers.iter().enumerate() {
                assert_eq!(find(&list, &digest(*n)).is_some(), at % 2 == 0, "{n}");
            }
        }
    }
}
