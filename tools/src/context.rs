//! What every verb gets: the outside world, the common flags and where to print.

use std::io::{self, Write};

use fkv_env::Env;
use serde::Serialize;

use crate::cli::{Global, OutputFormat};
use crate::failure::{Context as _, Outcome};

/// The surroundings of a running verb.
#[derive(Debug)]
pub(crate) struct Context {
    /// The outside world.
    pub(crate) env: Env,
    /// Text or JSON.
    pub(crate) output: OutputFormat,
    /// The control API's address.
    pub(crate) endpoint: String,
}

impl Context {
    /// The surroundings that the common flags ask for.
    pub(crate) fn new(env: Env, global: &Global) -> Self {
        Self { env, output: global.output, endpoint: global.endpoint.clone() }
    }

    /// Whether results are printed as JSON.
    pub(crate) fn is_json(&self) -> bool {
        self.output == OutputFormat::Json
    }

    /// Prints a result: `json` as one line, or what `text` writes.
    pub(crate) fn print<T: Serialize>(&self, json: &T, text: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> Outcome {
        let mut out = io::BufWriter::new(io::stdout().lock());
        let result = match self.output {
            OutputFormat::Text => text(&mut out),
            OutputFormat::Json => {
                serde_json::to_writer(&mut out, json).map_err(io::Error::from).and_then(|()| out.write_all(b"\n"))
            }
        };
        match result.and_then(|()| out.flush()) {
            // Whoever reads us (`head`, a pager) has seen enough.
            Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            other => other.context(|| "write the result".to_owned()),
        }
    }

    /// Tells a person what happens, beside the result.
    pub(crate) fn note(&self, message: &str) {
        // Nothing is left to tell anybody if the terminal is gone.
        let _ = writeln!(io::stderr(), "{message}");
    }
}
