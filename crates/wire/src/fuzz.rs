//! Fuzz targets: what any bytes must not do is panic, and what decodes must encode alike.

use bytes::BytesMut;

use crate::{StreamDecoder, encode_stream};

/// Feeds arbitrary bytes to the stream decoder.
pub fn fuzz_stream(data: &[u8]) {
    let mut decoder = StreamDecoder::new();
    decoder.buffer().extend_from_slice(data);
    while let Ok(Some(message)) = decoder.next() {
        let mut out = BytesMut::new();
        encode_stream(&message, &mut out);
        let mut again = StreamDecoder::new();
        again.buffer().extend_from_slice(&out);
        assert_eq!(again.next(), Ok(Some(message)));
    }
}

/// A valid stream to start from.
pub fn seed() -> Vec<u8> {
    let mut message = crate::Message::event("a.b".into()).with_text("{}");
    message.push_route("one".into());
    let mut out = BytesMut::new();
    encode_stream(&message, &mut out);
    out.to_vec()
}
