//! What a suite found: ratios against their goals, and the raw figures behind them.
//!
//! ```text
//!   { "suite": "mem", "machine": {…}, "commit": "…",
//!     "ratios": { NAME: { "value": 0.91, "goal": 0.85, "op": ">=" } }, "raw": { … } }
//! ```

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::Value;

use crate::machine::Machine;

/// Which side of its goal a ratio must be on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub enum Op {
    /// At least the goal.
    #[serde(rename = ">=")]
    AtLeast,
    /// At most the goal.
    #[serde(rename = "<=")]
    AtMost,
}

/// One ratio with its goal.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Ratio {
    /// What was measured.
    pub value: f64,
    /// What it should be.
    pub goal: f64,
    /// Which side of the goal is good.
    pub op: Op,
}

impl Ratio {
    /// Whether the goal is met.
    #[must_use]
    pub fn is_met(&self) -> bool {
        match self.op {
            Op::AtLeast => self.value >= self.goal,
            Op::AtMost => self.value <= self.goal,
        }
    }
}

/// The result of one suite.
#[derive(Debug, Serialize)]
pub struct Report {
    /// Name of the suite.
    pub suite: String,
    /// Where it ran.
    pub machine: Machine,
    /// The commit it was built from; `-dirty` if the tree had changes.
    pub commit: String,
    /// The ratios by name.
    pub ratios: BTreeMap<String, Ratio>,
    /// The figures behind them by name; units stand in the names.
    pub raw: BTreeMap<String, Value>,
}

impl Report {
    /// An empty report of `suite`.
    #[must_use]
    pub fn new(suite: &str, machine: Machine, commit: String) -> Self {
        Self { suite: suite.to_owned(), machine, commit, ratios: BTreeMap::new(), raw: BTreeMap::new() }
    }

    /// Records a ratio.
    pub fn ratio(&mut self, name: &str, value: f64, op: Op, goal: f64) {
        self.ratios.insert(name.to_owned(), Ratio { value, goal, op });
    }

    /// Records a figure.
    pub fn raw(&mut self, name: &str, value: impl Into<Value>) {
        self.raw.insert(name.to_owned(), value.into());
    }

    /// The report for people: one line a ratio, then the figures.
    #[must_use]
    pub fn render(&self) -> String {
        let mut text = format!("suite {} on {} at {}\n", self.suite, self.machine.cpu, self.commit);
        for (name, ratio) in &self.ratios {
            let op = if ratio.op == Op::AtLeast { ">=" } else { "<=" };
            let verdict = if ratio.is_met() { "met" } else { "MISSED" };
            text += &format!("  {name:<44} {:>8.3}  goal {op} {:<6} {verdict}\n", ratio.value, ratio.goal);
        }
        for (name, value) in &self.raw {
            text += &format!("  {name:<44} {value}\n");
        }
        text
    }
}

/// The median of `samples`; 0 for none.
#[must_use]
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => 0.0,
        n if n % 2 == 1 => sorted[n / 2],
        n => f64::midpoint(sorted[n / 2 - 1], sorted[n / 2]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_median_ignores_outliers_and_order() {
        assert!((median(&[9.0, 1.0, 2.0, 3.0, 1000.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(&[4.0, 2.0]) - 3.0).abs() < f64::EPSILON);
        assert!(median(&[]).abs() < f64::EPSILON);
    }

    #[test]
    fn a_goal_has_a_good_side() {
        let ratio = |value, op| Ratio { value, goal: 1.0, op };
        assert!(ratio(1.1, Op::AtLeast).is_met() && !ratio(0.9, Op::AtLeast).is_met());
        assert!(ratio(0.9, Op::AtMost).is_met() && !ratio(1.1, Op::AtMost).is_met());
    }
}
