//! How much is measured, and how it is timed.

use std::time::{Duration, Instant};

/// How much is enough: a smoke run only shows that everything works.
#[derive(Debug, Clone, Copy)]
pub struct Effort {
    smoke: bool,
}

impl Effort {
    pub fn new(smoke: bool) -> Effort {
        Effort { smoke }
    }

    pub fn count(self, full: u64) -> u64 {
        if self.smoke {
            (full / 100).max(10)
        } else {
            full
        }
    }

    /// Seconds an item: `batch`, which returns how many it dealt with, is repeated after once to
    /// warm up.
    pub fn per_item(self, mut batch: impl FnMut() -> u64) -> f64 {
        let enough = Duration::from_millis(if self.smoke { 10 } else { 400 });
        batch();
        let (mut items, began) = (0, Instant::now());
        while items == 0 || began.elapsed() < enough {
            items += batch();
        }
        began.elapsed().as_secs_f64() / items as f64
    }
}
