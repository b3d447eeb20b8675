//! Which of ever more numbers have been seen.

use std::collections::VecDeque;

/// Which indices have had their reply; all below `base * 64` have.
#[derive(Debug, Default)]
pub(crate) struct Marks {
    base: u64,
    words: VecDeque<u64>,
}

impl Marks {
    /// True if the index was not marked yet.
    pub(crate) fn mark(&mut self, index: u64) -> bool {
        let Some(word) = (index / 64).checked_sub(self.base) else {
            return false;
        };
        // Indices are below the number of tasks submitted, so the words are few enough.
        let word = word as usize;
        if word >= self.words.len() {
            self.words.resize(word + 1, 0);
        }
        let bit = 1 << (index % 64);
        if self.words[word] & bit != 0 {
            return false;
        }
        self.words[word] |= bit;
        while self.words.front() == Some(&u64::MAX) {
            self.words.pop_front();
            self.base += 1;
        }
        true
    }

    pub(crate) fn is_marked(&self, index: u64) -> bool {
        let Some(word) = (index / 64).checked_sub(self.base) else {
            return true;
        };
        let word = self.words.get(word as usize);
        word.is_some_and(|word| word & 1 << (index % 64) != 0)
    }

    pub(crate) fn first_clear(&self) -> u64 {
        let word = self
            .words
            .iter()
            .position(|word| *word != u64::MAX)
            .unwrap_or(self.words.len());
        let bit = self.words.get(word).map_or(0, |word| word.trailing_ones());
        (self.base + word as u64) * 64 + u64::from(bit)
    }

    pub(crate) fn clear(&mut self) {
        self.base = 0;
        self.words.clear();
        // Kept for the next user, unless it was a lot.
        self.words.shrink_to(64);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_number_is_new_once_in_any_order() {
        let mut marks = Marks::default();
        let order = (0..500).map(|step| step * 37 % 500);
        for number in order.clone() {
            assert!(!marks.is_marked(number));
            assert!(marks.mark(number), "{number}");
            assert!(marks.is_marked(number));
            assert!(!marks.mark(number), "{number}");
        }
        assert_eq!(marks.first_clear(), 500);
        assert!(order.into_iter().all(|number| !marks.mark(number)));
        assert!(marks.words.len() <= 1, "what is full is forgotten");
    }

    #[test]
    fn the_first_gap_is_found() {
        let mut marks = Marks::default();
        assert_eq!(marks.first_clear(), 0);
        for number in (0..200).filter(|number| *number != 130) {
            marks.mark(number);
        }
        assert_eq!(marks.first_clear(), 130);
        marks.clear();
        assert_eq!(marks.first_clear(), 0);
    }
}
