//! Percentiles of samples.

/// Samples of one quantity.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Samples(Vec<f64>);

impl Samples {
    /// Adds one.
    pub fn add(&mut self, value: f64) {
        let at = self.0.partition_point(|one| *one <= value);
        self.0.insert(at, value);
    }

    /// Adds many; cheaper than one by one.
    pub fn extend(&mut self, values: impl IntoIterator<Item = f64>) {
        self.0.extend(values);
        self.0.sort_by(f64::total_cmp);
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Nearest rank: the smallest sample that at least `percent` of all samples do not
    /// exceed. `None` without samples.
    pub fn percentile(&self, percent: u32) -> Option<f64> {
        let count = self.0.len();
        let rank = (count * usize::try_from(percent).ok()?).div_ceil(100);
        self.0.get(rank.max(1) - 1).copied()
    }

    /// The largest.
    pub fn max(&self) -> Option<f64> {
        self.0.last().copied()
    }

    /// In ascending order.
    pub fn sorted(&self) -> &[f64] {
        &self.0
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Self {
        let mut samples = Self::default();
        samples.extend(values);
        samples
    }
}

/// Rounded to a number of decimals, for reports.
pub fn rounded(value: f64, decimals: i32) -> f64 {
    let scale = 10_f64.powi(decimals);
    (value * scale).round() / scale
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_samples_by_nearest_rank() {
        let ten: Samples = (1..=10).rev().map(f64::from).collect();
        for (percent, expected) in [
            (0, 1.0),
            (10, 1.0),
            (11, 2.0),
            (50, 5.0),
            (90, 9.0),
            (91, 10.0),
            (100, 10.0),
        ] {
            assert_eq!(ten.percentile(percent), Some(expected), "p{percent}");
        }
        let hundred: Samples = (1..=100).map(f64::from).collect();
        assert_eq!(hundred.percentile(99), Some(99.0));
        assert_eq!(hundred.percentile(100), hundred.max());
    }

    #[test]
    fn one_sample_is_every_percentile_and_none_is_none() {
        let one: Samples = [7.0].into_iter().collect();
        assert!(
            [0, 1, 50, 99, 100]
                .iter()
                .all(|p| one.percentile(*p) == Some(7.0))
        );
        assert_eq!(Samples::default().percentile(50), None);
        assert_eq!(Samples::default().max(), None);
    }

    #[test]
    fn order_of_adding_does_not_matter() {
        let mut added = Samples::default();
        for value in [3.0, 1.0, 2.0, 2.0] {
            added.add(value);
        }
        assert_eq!(added, [1.0, 2.0, 2.0, 3.0].into_iter().collect());
        assert_eq!(added.len(), 4);
    }

    #[test]
    fn rounding_keeps_decimals() {
        assert_eq!(rounded(1.2345, 2), 1.23);
        assert_eq!(rounded(1285.0, -1), 1290.0);
    }
}
