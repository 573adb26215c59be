//! Ranks that follow Zipf's law: rank k is drawn in proportion to 1 / k^s.
//!
//! ```text
//!   u, uniform under the curve x^-s ── inverse of its integral ──▶ x ── nearest whole number ──▶ k
//!       kept if u lies within the bar of k (nearly always), drawn again otherwise: exact, and no table of n sums
//! ```
//!
//! Rejection-inversion after W. Hörmann and G. Derflinger, "Rejection-inversion to generate variates from monotone discrete
//! distributions", ACM Transactions on Modeling and Computer Simulation 6(3), 1996.

/// Zipf's law over the ranks 1 to n.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Zipf {
    ranks: f64,
    exponent: f64,
    /// The integral from 1 to the left end of the first bar, and to the right end of the last.
    integral: [f64; 2],
    /// A point no further than this to the left of its rank lies within the bar, whatever the rank.
    sure: f64,
}

impl Zipf {
    /// The law over `ranks` ranks, with an exponent above 0 other than 1.
    pub(crate) fn new(ranks: u64, exponent: f64) -> Self {
        assert!(ranks > 0 && exponent > 0.0 && (exponent - 1.0).abs() > 1e-6, "a law that this method covers");
        let ranks = ranks as f64;
        let mut law = Self { ranks, exponent, integral: [0.0; 2], sure: 0.0 };
        // The bar of rank 1 ends where its height times its width says.
        law.integral = [law.integral_to(1.5) - 1.0, law.integral_to(ranks + 0.5)];
        law.sure = 2.0 - law.point_of(law.integral_to(2.5) - law.height(2.0));
        law
    }

    /// A rank, from numbers that are uniform from 0 to below 1.
    pub(crate) fn draw(&self, mut uniform: impl FnMut() -> f64) -> u64 {
        let [from, to] = self.integral;
        loop {
            let area = to + uniform() * (from - to);
            let point = self.point_of(area);
            let rank = point.round().clamp(1.0, self.ranks);
            if rank - point <= self.sure || area >= self.integral_to(rank + 0.5) - self.height(rank) {
                return rank as u64;
            }
        }
    }

    fn height(&self, x: f64) -> f64 {
        x.powf(-self.exponent)
    }

    /// The integral of the height from 1 to `x`.
    fn integral_to(&self, x: f64) -> f64 {
        let power = 1.0 - self.exponent;
        (power * x.ln()).exp_m1() / power
    }

    /// Where the integral from 1 is `area`.
    fn point_of(&self, area: f64) -> f64 {
        let power = 1.0 - self.exponent;
        ((power * area).ln_1p() / power).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::keys::Random;

    /// Draws, and compares how often ranks come with what the law says.
    fn compare(ranks: u64, exponent: f64, bounds: &[(u64, u64)]) {
        const DRAWS: usize = 2_000_000;
        let law = Zipf::new(ranks, exponent);
        let mut random = Random::new(7);
        let mut counts = vec![0_u64; ranks as usize + 1];
        for _ in 0..DRAWS {
            counts[law.draw(|| random.unit()) as usize] += 1;
        }
        assert_eq!(counts[0], 0, "ranks begin with 1");
        let weight = |range: std::ops::RangeInclusive<u64>| range.map(|k| (k as f64).powf(-exponent)).sum::<f64>();
        let all = weight(1..=ranks);
        for &(first, last) in bounds {
            let expected = weight(first..=last) / all;
            let drawn = counts[first as usize..=last as usize].iter().sum::<u64>() as f64 / DRAWS as f64;
            // Five standard deviations.
            let tolerance = 5.0 * (expected / DRAWS as f64).sqrt();
            assert!((drawn - expected).abs() < tolerance, "ranks {first} to {last}: {drawn}, not {expected}");
        }
    }

    #[test]
    fn ranks_come_as_often_as_the_law_says() {
        let bounds = [(1, 1), (2, 2), (3, 3), (4, 10), (11, 100), (101, 10_000), (10_001, 100_000), (100_000, 100_000)];
        compare(100_000, 0.99, &bounds);
        compare(100_000, 1.5, &bounds[..6]);
        compare(3, 0.5, &[(1, 1), (2, 2), (3, 3)]);
        compare(1, 0.99, &[(1, 1)]);
    }
}
