//! Running statistics, as several services show them.

use serde_json::{Value, json};

/// Count, extremes, mean and spread of a series of numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Tally {
    /// How many numbers.
    pub count: u64,
    /// The least.
    pub min: f64,
    /// The greatest.
    pub max: f64,
    /// The mean.
    pub mean: f64,
    /// The sum of squared distances from the mean (Welford).
    spread: f64,
}

impl Tally {
    /// Adds a number.
    pub fn push(&mut self, number: f64) {
        self.count += 1;
        if self.count == 1 {
            self.min = number;
            self.max = number;
        }
        self.min = self.min.min(number);
        self.max = self.max.max(number);
        let distance = number - self.mean;
        self.mean += distance / self.count as f64;
        self.spread += distance * (number - self.mean);
    }

    /// The standard deviation of the sample.
    pub fn stddev(&self) -> f64 {
        match self.count {
            0 | 1 => 0.0,
            count => (self.spread / (count - 1) as f64).sqrt(),
        }
    }

    /// The object in statistics.
    pub fn to_json(&self) -> Value {
        json!({
            "count": self.count, "min": self.min, "mean": self.mean,
            "stddev": self.stddev(), "max": self.max,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn agrees_with_the_textbook() {
        let mut tally = Tally::default();
        assert_eq!((tally.count, tally.stddev()), (0, 0.0));
        for number in [2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0] {
            tally.push(number);
        }
        assert_eq!((tally.count, tally.min, tally.max), (8, 2.0, 9.0));
        assert_eq!(tally.mean, 5.0);
        assert!((tally.stddev() - (32.0_f64 / 7.0).sqrt()).abs() < 1e-12);
    }
}
