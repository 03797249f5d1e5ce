//! Samples in the text formats of Prometheus and OpenMetrics.

use anyhow::{Context as _, ensure};

/// All samples of a text.
#[derive(Debug, Default)]
pub(in crate::scenarios) struct Samples(Vec<Sample>);

#[derive(Debug)]
struct Sample {
    name: String,
    /// The labels as text, without the braces.
    labels: String,
    value: f64,
}

impl Samples {
    /// Parses `NAME{LABELS} VALUE`; the labels are optional, and a timestamp may follow the value.
    pub(in crate::scenarios) fn parse(text: &str) -> anyhow::Result<Self> {
        let lines = text
            .lines()
            .filter(|line| !line.is_empty() && !line.starts_with('#'));
        let samples = lines.map(|line| sample(line).with_context(|| format!("not a sample: {line}")));
        Ok(Self(samples.collect::<Result<_, _>>()?))
    }

    /// Returns the sum of the samples with one of these names whose labels contain `labels`, if there are any.
    pub(in crate::scenarios) fn sum(&self, names: &[&str], labels: &str) -> Option<f64> {
        self.0
            .iter()
            .filter(|sample| names.contains(&sample.name.as_str()) && sample.labels.contains(labels))
            .map(|sample| sample.value)
            .reduce(|sum, value| sum + value)
    }
}

fn sample(line: &str) -> anyhow::Result<Sample> {
    let (name, labels, rest) = match line.split_once('{') {
        Some((name, rest)) => {
            let (labels, rest) = rest.rsplit_once('}').context("the labels have no end")?;
            (name, labels, rest)
        }
        None => line
            .split_once(' ')
            .map(|(name, rest)| (name, "", rest))
            .context("no value")?,
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    ensure!(
        !name.is_empty() && name.chars().all(plain),
        "the name is {name:?}"
    );
    let value = rest.split_whitespace().next().context("no value")?;
    Ok(Sample {
        name: name.to_owned(),
        labels: labels.to_owned(),
        value: value.parse()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn samples_of_a_name_are_summed() {
        let text =
            "# TYPE a counter\na_total{x=\"1 {}\",y=\"2\"} 3 1795551790\na_total{x=\"2\"} 4.5\nb 1\n# EOF\n";
        let samples = Samples::parse(text).unwrap();
        assert_eq!(samples.sum(&["a_total"], ""), Some(7.5));
        assert_eq!(samples.sum(&["a_total", "b"], ""), Some(8.5));
        assert_eq!(samples.sum(&["a_total"], "y=\"2\""), Some(3.0));
        assert_eq!(samples.sum(&["a"], ""), None);
        for wrong in ["a", "a{x=\"1\" 2", "a b", "a-b 1", "{} 1"] {
            assert!(Samples::parse(wrong).is_err(), "{wrong}");
        }
    }
}
