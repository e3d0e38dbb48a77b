//! The order in which prefix lengths are asked for.

use super::prefix::Prefix;

/// A tree of lengths, as [`PrefixHeader`](tidewaiter_common::prefix::PrefixHeader) has them: after the one at `n` comes that
/// at `2 n` for shorter prefixes, and that at `2 n + 1` for longer ones. The first is at 1; 0 is no length.
#[derive(Debug)]
pub(super) struct Lengths(Vec<u8>);

impl Lengths {
    /// The tree for `prefixes`, which are in order, of `levels` levels: no higher than it must be for the lengths that there
    /// are, and of such trees the one that needs the fewest markers, or nearly so.
    pub(super) fn new(prefixes: &[(Prefix, u16)], levels: u32) -> Self {
        let mut tree = vec![0; 1 << levels];
        let mut lengths: Vec<_> = prefixes.iter().map(|(prefix, _)| prefix.length).collect();
        lengths.sort_unstable();
        lengths.dedup();
        if !lengths.is_empty() {
            let height = lengths.len().ilog2() as usize + 1;
            let plan = Plan::new(&markers(prefixes, &lengths), height);
            plan.fill(&lengths, 0, height, 1, &mut tree);
        }
        Self(tree)
    }

    /// The lengths, as they stand in the tree.
    pub(super) fn iter(&self) -> impl Iterator<Item = u8> {
        self.0.iter().copied()
    }

    /// The shorter lengths at which a prefix of `length` needs a marker.
    pub(super) fn markers(&self, length: u8) -> impl Iterator<Item = u8> {
        let mut place = 1;
        std::iter::from_fn(move || {
            loop {
                let asked = self.0.get(place).copied().filter(|&asked| asked != 0 && asked != length)?;
                let is_longer = length > asked;
                place = place * 2 + usize::from(is_longer);
                if is_longer {
                    return Some(asked);
                }
            }
        })
    }
}

/// How many markers there would be at each length, if all longer ones up to each other length came after it: at `[k][l]`,
/// counted for each of those by itself, so that some may be counted more than once.
fn markers(prefixes: &[(Prefix, u16)], lengths: &[u8]) -> Vec<Vec<u64>> {
    let mut markers = vec![vec![0; lengths.len()]; lengths.len()];
    for (longer, &length) in lengths.iter().enumerate() {
        // How many bits each has in common with the one before it.
        let mut common = [0_u64; 129];
        let mut before = None;
        for (prefix, _) in prefixes.iter().filter(|(prefix, _)| prefix.length == length) {
            let bits = before.map_or(0, |before: u128| (before ^ prefix.bits).leading_zeros());
            common[bits as usize] += 1;
            before = Some(prefix.bits);
        }
        for (shorter, &cut) in lengths.iter().enumerate().take(longer) {
            markers[shorter][longer] = common.iter().take(cut.into()).sum();
        }
    }
    for counts in &mut markers {
        let mut sum = 0;
        for count in counts {
            sum += *count;
            *count = sum;
        }
    }
    markers
}

/// The best trees for all runs of lengths, of all heights up to one.
struct Plan {
    lengths: usize,
    /// By height, first length, and number of lengths: how many markers the best tree needs, and which of them is its root.
    best: Vec<Option<(u64, usize)>>,
}

impl Plan {
    fn new(markers: &[Vec<u64>], height: usize) -> Self {
        let lengths = markers.len();
        let mut plan = Self { lengths, best: vec![None; (height + 1) * (lengths + 1) * (lengths + 1)] };
        for height in 1..=height {
            for count in 1..=lengths.min((1 << height) - 1) {
                for first in 0..=lengths - count {
                    let last = first + count - 1;
                    let cost = |root: usize| {
                        let shorter = plan.cost(height - 1, first, root - first)?;
                        let longer = plan.cost(height - 1, root + 1, last - root)?;
                        Some((shorter + longer + markers[root][last], root))
                    };
                    let best = (first..=last).filter_map(cost).min();
                    let place = plan.place(height, first, count);
                    plan.best[place] = best;
                }
            }
        }
        plan
    }

    const fn place(&self, height: usize, first: usize, count: usize) -> usize {
        (height * (self.lengths + 1) + first) * (self.lengths + 1) + count
    }

    fn cost(&self, height: usize, first: usize, count: usize) -> Option<u64> {
        if count == 0 { Some(0) } else { self.best[self.place(height, first, count)].map(|(cost, _)| cost) }
    }

    /// Writes the best tree for `lengths`, which begin with the one of number `first`, to `tree` from `place` on.
    fn fill(&self, lengths: &[u8], first: usize, height: usize, place: usize, tree: &mut [u8]) {
        if lengths.is_empty() {
            return;
        }
        let Some((_, root)) = self.best[self.place(height, first, lengths.len())] else { return };
        let (shorter, longer) = lengths.split_at(root - first);
        if let (Some((root_length, longer)), Some(slot)) = (longer.split_first(), tree.get_mut(place)) {
            *slot = *root_length;
            self.fill(shorter, first, height - 1, place * 2, tree);
            self.fill(longer, root + 1, height - 1, place * 2 + 1, tree);
        }
    }
}
