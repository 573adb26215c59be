//! One line per step, for people or for programs.

use serde::Serialize;
use serde_json::{Value, json};

use crate::context::Context;
use crate::failure::Outcome;

/// Prints the steps of the demo as they are done.
#[derive(Debug)]
pub(super) struct Narrator<'a> {
    context: &'a Context,
    steps: u32,
}

#[derive(Serialize)]
struct Step<'a> {
    step: &'a str,
    text: &'a str,
    figures: &'a Value,
}

impl<'a> Narrator<'a> {
    pub(super) fn new(context: &'a Context) -> Self {
        Self { context, steps: 0 }
    }

    /// Says what was done, and the figures in it again as values.
    pub(super) fn step(&mut self, name: &str, text: &str, figures: Value) -> Outcome {
        self.steps += 1;
        let number = self.steps;
        self.context
            .print(&Step { step: name, text, figures: &figures }, |out| writeln!(out, "{number:>2} {name:<9} {text}"))
    }

    /// Says what all steps came to.
    pub(super) fn summary(&self, lines: &[(&str, String)]) -> Outcome {
        let figures: serde_json::Map<String, Value> =
            lines.iter().map(|(name, text)| (name.replace(' ', "_"), json!(text))).collect();
        let document = Step { step: "summary", text: "every answer was right", figures: &Value::Object(figures) };
        self.context.print(&document, |out| {
            writeln!(out, "\nsummary: every answer was right")?;
            let width = lines.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
            lines.iter().try_for_each(|(name, text)| writeln!(out, "  {name:<width$}  {text}"))
        })
    }
}
