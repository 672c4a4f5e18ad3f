//! What repeated measurements of one thing gave, and how two such series compare.

use super::cpu::Spread;

/// Measurements of one thing, in the order in which they were made.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Samples(pub Vec<f64>);

impl Samples {
    /// The middle one, or the mean of the middle two. NaN when nothing was measured.
    pub fn median(&self) -> f64 {
        Spread::of(self.0.clone()).median
    }

    /// From the least to the greatest, as a share of the median: 0.1 when they lie 10 % apart. NaN when nothing was
    /// measured.
    pub fn spread(&self) -> f64 {
        let Spread { median, min, max } = Spread::of(self.0.clone());
        (max - min) / median
    }

    /// Run by run, the sum over several things. As long as the shortest series.
    pub fn sums<'a>(series: impl Iterator<Item = &'a Samples> + Clone) -> Self {
        let n_runs = series.clone().map(|it| it.0.len()).min().unwrap_or(0);
        Self((0..n_runs).map(|run| series.clone().map(|it| it.0[run]).sum()).collect())
    }
}

/// The mean that suits ratios: the n-th root of their product. NaN for none.
pub fn geometric_mean(ratios: &[f64]) -> f64 {
    (ratios.iter().map(|ratio| ratio.ln()).sum::<f64>() / ratios.len() as f64).exp()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(values: &[f64]) -> Samples {
        Samples(values.to_vec())
    }

    #[test]
    fn the_spread_is_relative_to_the_median() {
        assert_eq!(samples(&[11.0, 10.0, 9.0]).spread(), 0.2);
        assert_eq!(samples(&[3.0]).spread(), 0.0);
        assert!(samples(&[]).spread().is_nan());
    }

    #[test]
    fn sums_are_made_run_by_run() {
        let series = [samples(&[1.0, 2.0]), samples(&[10.0, 20.0, 30.0])];
        assert_eq!(Samples::sums(series.iter()), samples(&[11.0, 22.0]));
        assert_eq!(Samples::sums([].iter()), samples(&[]));
    }

    #[test]
    fn twice_as_fast_and_twice_as_slow_cancel() {
        assert!((geometric_mean(&[0.5, 2.0]) - 1.0).abs() < 1e-12);
        assert!(geometric_mean(&[]).is_nan());
    }
}
