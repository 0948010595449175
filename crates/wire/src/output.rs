//! Messages on their way into a byte stream.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, Bytes, BytesMut};
use smallvec::SmallVec;

use crate::message::Message;
use crate::stream::{encode_stream, encode_stream_around};

/// Payloads from this size on are not copied.
const SHARED_MIN: usize = 32 << 10;

/// The memory that is kept for the next burst; idle connections should cost little.
const KEPT_MAX: usize = 64 << 10;

/// The most pieces in one system call.
const SLICES_MAX: usize = 16;

/// What waits to be written to a byte stream. Small messages are gathered in one buffer, large
/// payloads are shared with whoever else holds them.
#[derive(Debug, Default)]
pub struct StreamOutput {
    pieces: VecDeque<Bytes>,
    /// What follows the pieces.
    tail: BytesMut,
    length: usize,
}

impl StreamOutput {
    /// Nothing.
    pub fn new() -> StreamOutput {
        StreamOutput::default()
    }

    /// Adds bytes that are no message.
    pub fn push_bytes(&mut self, bytes: &[u8]) {
        self.tail.extend_from_slice(bytes);
        self.length += bytes.len();
    }

    /// Adds a message, framed.
    pub fn push(&mut self, message: &Message) {
        let before = self.tail.len();
        match &message.payload {
            Some(payload) if payload.len() >= SHARED_MIN => {
                let end = encode_stream_around(message, &mut self.tail);
                let written = self.tail.len() - before;
                let rest = self.tail.split_off(end);
                let start = std::mem::replace(&mut self.tail, rest);
                self.pieces.push_back(start.freeze());
                self.pieces.push_back(payload.clone());
                self.length += written + payload.len();
            }
            _ => {
                encode_stream(message, &mut self.tail);
                self.length += self.tail.len() - before;
            }
        }
    }

    /// The number of bytes in all.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// What to write next, for a vectored write.
    pub fn slices(&self) -> SmallVec<[IoSlice<'_>; SLICES_MAX]> {
        let pieces = self.pieces.iter().map(|piece| &**piece);
        let slices = pieces.chain([&*self.tail]).take(SLICES_MAX);
        slices.map(IoSlice::new).collect()
    }

    /// Forgets what was written.
    pub fn advance(&mut self, mut count: usize) {
        self.length -= count;
        while let Some(piece) = self.pieces.front_mut() {
            let taken = count.min(piece.len());
            piece.advance(taken);
            count -= taken;
            if !piece.is_empty() {
                return;
            }
            self.pieces.pop_front();
        }
        self.tail.advance(count);
        if self.length == 0 && self.tail.capacity() > KEPT_MAX {
            self.tail = BytesMut::new();
        }
    }

    /// Forgets everything.
    pub fn clear(&mut self) {
        *self = StreamOutput::new();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{StreamDecoder, Target};

    #[test]
    fn messages_come_out_as_they_went_in_however_they_are_written() {
        let message = |payload: usize| {
            Message::request("a.b".into(), Target::Any, None)
                .with_payload(vec![payload as u8; payload].into())
        };
        let sizes = [0, 1, SHARED_MIN, 7, SHARED_MIN - 1, 100_000, 100_000, 2];
        let messages: Vec<Message> = sizes.map(message).into();
        for step in [1, 1000, 70_000, usize::MAX] {
            let mut output = StreamOutput::new();
            let mut decoder = StreamDecoder::new();
            let mut received = Vec::new();
            for (index, message) in messages.iter().enumerate() {
                output.push(message);
                // Some is written while more is added.
                let rounds = if index % 3 == 2 { 2 } else { 0 };
                write(&mut output, step, rounds, &mut decoder);
            }
            write(&mut output, step, usize::MAX, &mut decoder);
            assert!(output.is_empty());
            while let Some(message) = decoder.next().expect("valid") {
                received.push(message);
            }
            assert_eq!(received, messages, "{step}");
        }
    }

    fn write(output: &mut StreamOutput, step: usize, rounds: usize, decoder: &mut StreamDecoder) {
        for _ in 0..rounds {
            if output.is_empty() {
                return;
            }
            let mut left = step;
            let mut count = 0;
            for slice in output.slices() {
                let taken = slice.len().min(left);
                decoder.buffer().extend_from_slice(&slice[..taken]);
                left -= taken;
                count += taken;
            }
            output.advance(count);
        }
    }
}
