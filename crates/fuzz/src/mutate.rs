//! Makes inputs: a seed with a few random changes. Deterministic for a given seed number.

/// Text that steers decoders into corners.
const TOKENS: [&str; 24] = [
    "0",
    "-1",
    "1e999",
    "4294967295",
    "4294967296",
    "18446744073709551616",
    "2147483647",
    "[",
    "]",
    "{",
    "}",
    ",",
    ":",
    "\"",
    "null",
    "true",
    "-",
    "=",
    ";",
    "/",
    "\\u0000",
    "ƒ",
    "😃",
    "\u{0}",
];

/// The longest input.
const LENGTH_MAX: usize = 4096;

pub(crate) struct Mutator {
    seeds: &'static [&'static str],
    state: u64,
}

impl Mutator {
    pub(crate) fn new(seeds: &'static [&'static str], seed: u64) -> Mutator {
        // Xorshift never leaves zero, so it must not begin there.
        let state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
        Mutator { seeds, state }
    }

    /// Xorshift64.
    fn random(&mut self) -> u64 {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        self.state
    }

    fn below(&mut self, limit: usize) -> usize {
        (self.random() % limit.max(1) as u64) as usize
    }

    fn seed(&mut self) -> Vec<u8> {
        let at = self.below(self.seeds.len());
        self.seeds
            .get(at)
            .map_or(Vec::new(), |seed| seed.as_bytes().to_vec())
    }

    pub(crate) fn next_input(&mut self) -> Vec<u8> {
        let mut input = self.seed();
        for _ in 0..=self.below(6) {
            self.change(&mut input);
        }
        input.truncate(LENGTH_MAX);
        input
    }

    fn change(&mut self, input: &mut Vec<u8>) {
        let at = self.below(input.len() + 1);
        match self.below(7) {
            0 if at < input.len() => input[at] ^= 1 << self.below(8),
            1 if at < input.len() => input[at] = self.random() as u8,
            2 if at < input.len() => {
                let end = at + 1 + self.below((input.len() - at).min(8));
                input.drain(at..end.min(input.len()));
            }
            3 => {
                let token = TOKENS[self.below(TOKENS.len())];
                input.splice(at..at, token.bytes());
            }
            4 => {
                // A piece of the input once more.
                let end = at + self.below(input.len() - at + 1);
                let piece = input[at..end].to_vec();
                input.splice(at..at, piece);
            }
            5 => {
                let other = self.seed();
                let from = self.below(other.len() + 1);
                input.truncate(at);
                input.extend_from_slice(&other[from..]);
            }
            _ => input.insert(at, b' ' + (self.random() % 95) as u8),
        }
    }
}
