//! A list that stays short however long it goes on.

/// Items at about even distances of all that were pushed: when it is full every second one goes, and from then on only
/// every second one is kept. The first always stays.
#[derive(Clone, Debug)]
pub struct Thinned<T> {
    items: Vec<T>,
    limit: usize,
    /// Of so many pushed items one is kept.
    step: u64,
    n_pushed: u64,
}

impl<T> Thinned<T> {
    /// An empty list of at most `limit` items, at least 2, whose memory is taken now.
    pub fn new(limit: usize) -> Thinned<T> {
        let limit = limit.max(2);
        Thinned {
            items: Vec::with_capacity(limit),
            limit,
            step: 1,
            n_pushed: 0,
        }
    }

    /// Adds an item, or drops it.
    pub fn push(&mut self, item: T) {
        let kept = self.n_pushed.is_multiple_of(self.step);
        self.n_pushed += 1;
        if !kept {
            return;
        }
        if self.items.len() == self.limit {
            let mut i = 0;
            self.items.retain(|_| {
                i += 1;
                i % 2 == 1
            });
            self.step *= 2;
            // The next of the longer steps may not be this one.
            if !(self.n_pushed - 1).is_multiple_of(self.step) {
                return;
            }
        }
        self.items.push(item);
    }

    /// What was kept, in order.
    pub fn into_items(self) -> Vec<T> {
        self.items
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_kept_lies_at_even_distances() {
        for limit in 2..9usize {
            for n in 0..100u64 {
                let mut list = Thinned::new(limit);
                (0..n).for_each(|i| list.push(i));
                let items = list.into_items();
                let step = items.get(1).copied().unwrap_or(1);
                let expected: Vec<u64> = (0..n).step_by(step as usize).collect();
                assert_eq!(items, expected, "{limit} of {n}");
                assert!(items.len() <= limit && step.is_power_of_two());
                // No shorter than it has to be: twice as many would be too many.
                assert!(
                    step == 1 || items.len() * 2 + 1 >= limit,
                    "{limit} of {n}: {items:?}"
                );
            }
        }
    }
}
