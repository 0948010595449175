//! The NaCl boxes CurveZMQ is made of, over `dryoc`.
//!
//! A box made for two keys and a secret box share one construction once the shared key is
//! computed, so everything here works on that 32-byte key.

use bytes::{BufMut, BytesMut};
use dryoc::classic::crypto_box::{
    crypto_box_beforenm, crypto_box_detached_afternm_inplace,
    crypto_box_open_detached_afternm_inplace,
};
use dryoc::types::{ByteArray, StackByteArray};

use crate::error::Error;
use crate::keys::{PublicKey, SecretKey};

/// Bytes of the authentication tag that precedes each ciphertext.
pub(crate) const MAC_LEN: usize = 16;

/// A symmetric key, wiped when dropped.
pub(crate) struct Key(StackByteArray<32>);

/// A full nonce.
pub(crate) type Nonce = [u8; 24];

impl Key {
    /// The key two parties share.
    /// Errors: [`Error::Decrypt`] for a public key of low order, which no honest peer has.
    pub(crate) fn shared(public: &PublicKey, secret: &SecretKey) -> Result<Key, Error> {
        crypto_box_beforenm(public.as_bytes(), secret.as_bytes())
            .map(|key| Key(StackByteArray::from(key)))
            .map_err(|_| Error::Decrypt)
    }

    /// A fresh key for secret boxes.
    pub(crate) fn random() -> Key {
        Key(StackByteArray::from(random::<32>()))
    }

    /// Appends the box of `plain`, given in pieces, to `out`.
    pub(crate) fn seal(&self, nonce: &Nonce, plain: &[&[u8]], out: &mut BytesMut) {
        let start = out.len();
        out.put_bytes(0, MAC_LEN);
        for piece in plain {
            out.put_slice(piece);
        }
        let (mac, text) = out[start..].split_at_mut(MAC_LEN);
        let mut tag = [0; MAC_LEN];
        crypto_box_detached_afternm_inplace(text, &mut tag, nonce, self.0.as_array());
        mac.copy_from_slice(&tag);
    }

    /// Opens a box in place and returns its plain text.
    /// Errors: [`Error::Decrypt`] when it was not made with this key and nonce.
    pub(crate) fn open<'a>(
        &self,
        nonce: &Nonce,
        sealed: &'a mut [u8],
    ) -> Result<&'a mut [u8], Error> {
        let (mac, text) = sealed
            .split_first_chunk_mut::<MAC_LEN>()
            .ok_or(Error::Decrypt)?;
        crypto_box_open_detached_afternm_inplace(text, mac, nonce, self.0.as_array())
            .map_err(|_| Error::Decrypt)?;
        Ok(text)
    }
}

/// Bytes from the system's random source.
pub(crate) fn random<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    dryoc::rng::copy_randombytes(&mut bytes);
    bytes
}

/// A nonce made of a 16-byte prefix and a counter.
pub(crate) fn short_nonce(prefix: &[u8; 16], counter: u64) -> Nonce {
    let mut nonce = [0; 24];
    nonce[..16].copy_from_slice(prefix);
    nonce[16..].copy_from_slice(&counter.to_be_bytes());
    nonce
}

/// A nonce made of an 8-byte prefix and 16 random bytes.
pub(crate) fn long_nonce(prefix: &[u8; 8], random: &[u8; 16]) -> Nonce {
    let mut nonce = [0; 24];
    nonce[..8].copy_from_slice(prefix);
    nonce[8..].copy_from_slice(random);
    nonce
}
