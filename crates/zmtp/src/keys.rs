//! CURVE keys and the decision whose key is welcome.

use std::fmt;
use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use dryoc::classic::crypto_box::crypto_box_keypair;
use dryoc::classic::crypto_core::crypto_scalarmult_base;
use dryoc::types::{ByteArray, StackByteArray};

use crate::z85::{Z85Error, z85_decode, z85_encode};

/// A public key. Comparison takes constant time; the text form is 40 characters of Z85.
#[derive(Clone, Copy)]
pub struct PublicKey([u8; 32]);

/// A secret key, wiped from memory when dropped and never shown by `Debug`.
#[derive(Clone)]
pub struct SecretKey(StackByteArray<32>);

/// A long-term key pair: a peer's identity.
#[derive(Clone, Debug)]
pub struct CurveKeypair {
    /// The half to hand out.
    pub public: PublicKey,
    /// The half to keep.
    pub secret: SecretKey,
}

/// Decides whether the client that proved it owns this key may connect.
pub type Authorize = Arc<dyn Fn(&PublicKey) -> bool + Send + Sync>;

/// A shared list of the client keys that may connect. Clones refer to the same list.
#[derive(Clone, Debug, Default)]
pub struct AllowList(Arc<Mutex<Vec<PublicKey>>>);

impl PublicKey {
    /// Takes the 32 raw bytes of a key.
    pub fn from_bytes(bytes: [u8; 32]) -> PublicKey {
        PublicKey(bytes)
    }

    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// The text form.
    pub fn to_z85(&self) -> String {
        z85_encode(&self.0).unwrap_or_default()
    }
}

impl PartialEq for PublicKey {
    fn eq(&self, other: &PublicKey) -> bool {
        same(&self.0, &other.0)
    }
}

impl Eq for PublicKey {}

impl fmt::Display for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.to_z85())
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PublicKey({self})")
    }
}

impl FromStr for PublicKey {
    type Err = Z85Error;

    /// Reads 40 characters of Z85.
    fn from_str(text: &str) -> Result<PublicKey, Z85Error> {
        let bytes = z85_decode(text)?;
        Ok(PublicKey(bytes.try_into().map_err(|_| Z85Error::Length)?))
    }
}

impl SecretKey {
    /// Takes the 32 raw bytes of a key.
    pub fn from_bytes(bytes: [u8; 32]) -> SecretKey {
        SecretKey(StackByteArray::from(bytes))
    }

    /// The 32 raw bytes.
    pub fn as_bytes(&self) -> &[u8; 32] {
        self.0.as_array()
    }

    /// The text form.
    pub fn to_z85(&self) -> String {
        z85_encode(self.as_bytes()).unwrap_or_default()
    }
}

impl fmt::Debug for SecretKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretKey(..)")
    }
}

impl FromStr for SecretKey {
    type Err = Z85Error;

    /// Reads 40 characters of Z85.
    fn from_str(text: &str) -> Result<SecretKey, Z85Error> {
        let bytes = z85_decode(text)?;
        Ok(SecretKey::from_bytes(
            bytes.try_into().map_err(|_| Z85Error::Length)?,
        ))
    }
}

impl CurveKeypair {
    /// Makes a fresh pair from the system's random source.
    pub fn generate() -> CurveKeypair {
        let (public, secret) = crypto_box_keypair();
        CurveKeypair {
            public: PublicKey(public),
            secret: SecretKey::from_bytes(secret),
        }
    }

    /// The pair that belongs to a secret key.
    pub fn from_secret(secret: SecretKey) -> CurveKeypair {
        let mut public = [0; 32];
        crypto_scalarmult_base(&mut public, secret.as_bytes());
        CurveKeypair {
            public: PublicKey(public),
            secret,
        }
    }
}

impl AllowList {
    /// Makes a list that allows nobody.
    pub fn new() -> AllowList {
        AllowList::default()
    }

    /// Adds a key.
    pub fn allow(&self, key: PublicKey) {
        self.with(|keys| {
            if !keys.contains(&key) {
                keys.push(key);
            }
        });
    }

    /// Removes a key. Connections already made stay.
    pub fn revoke(&self, key: &PublicKey) {
        self.with(|keys| keys.retain(|k| k != key));
    }

    /// Whether the key is on the list.
    pub fn contains(&self, key: &PublicKey) -> bool {
        self.with(|keys| keys.iter().fold(false, |found, k| found | (k == key)))
    }

    /// The callback to put in a server's configuration.
    pub fn authorize(&self) -> Authorize {
        let list = self.clone();
        Arc::new(move |key| list.contains(key))
    }

    fn with<T>(&self, work: impl FnOnce(&mut Vec<PublicKey>) -> T) -> T {
        // No code that can panic runs under the lock, so a poisoned list is still whole.
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Compares in a time that does not depend on where the difference is.
pub(crate) fn same(a: &[u8; 32], b: &[u8; 32]) -> bool {
    let difference = a.iter().zip(b).fold(0, |sum, (x, y)| sum | (x ^ y));
    std::hint::black_box(difference) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The key pair in the documentation of `zmq_curve_keypair`.
    const PUBLIC: &str = "Yne@$w-vo<fVvi]a<NY6T1ed:M$fCG*[IaLV{hID";
    const SECRET: &str = "D:)Q[IlAW!ahhC2ac:9*A}h:p?([4%wOTJ%JR%cs";

    #[test]
    fn documented_pair_matches() {
        let pair = CurveKeypair::from_secret(SECRET.parse().unwrap());
        assert_eq!(pair.public.to_string(), PUBLIC);
        assert_eq!(pair.secret.to_z85(), SECRET);
    }

    #[test]
    fn generated_pairs_differ_and_match_themselves() {
        let (a, b) = (CurveKeypair::generate(), CurveKeypair::generate());
        assert_ne!(a.public, b.public);
        assert_eq!(CurveKeypair::from_secret(a.secret.clone()).public, a.public);
        assert_eq!(format!("{:?}", a.secret), "SecretKey(..)");
    }

    #[test]
    fn allow_list_follows_changes() {
        let list = AllowList::new();
        let key: PublicKey = PUBLIC.parse().unwrap();
        let authorize = list.authorize();
        assert!(!authorize(&key));
        list.allow(key);
        assert!(authorize(&key));
        list.revoke(&key);
        assert!(!authorize(&key));
    }

    #[test]
    fn short_keys_are_refused() {
        assert!("HelloWorld".parse::<PublicKey>().is_err());
    }
}
