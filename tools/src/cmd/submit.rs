//! `fkv submit-load-task`.

use std::path::{Component, Path, PathBuf};

use fkv_rpc::control;
use serde::Serialize;

use super::task::{require_finished, wait};
use crate::cli::{Duplicates, InputFormat, LoadMode, NullPolicy, SubmitArgs};
use crate::context::Context;
use crate::control::Control;
use crate::failure::{Context as _, Failure, Outcome};
use crate::view::TaskView;

#[derive(Serialize)]
struct Submitted {
    created: bool,
    task: TaskView,
}

pub(super) async fn run(context: &Context, args: SubmitArgs) -> Outcome {
    let control = Control::new(context)?;
    let submit_id = match args.submit_id {
        Some(id) if id.is_empty() => return Err(Failure::usage("--submit-id must not be empty")),
        Some(id) => id,
        None => format!("fkv-{:016x}", context.env.entropy.next_u64()),
    };
    let request = control::SubmitLoadRequest {
        table: args.table.clone(),
        submit_id: submit_id.clone(),
        spec: Some(control::LoadSpec {
            inputs: args.input.iter().map(|input| input_url(input)).collect::<Outcome<_>>()?,
            mode: match args.mode {
                LoadMode::Full => "full",
                LoadMode::Incremental => "incremental",
            }
            .to_owned(),
            format: match args.format {
                InputFormat::Parquet => "parquet",
                InputFormat::Csv => "csv",
                InputFormat::Tsv => "tsv",
                InputFormat::Jsonl => "jsonl",
            }
            .to_owned(),
            key_column: args.key,
            value_columns: args.value,
            expiry_column: args.expiry.unwrap_or_default(),
            delete_column: args.delete.unwrap_or_default(),
            nulls: match args.nulls {
                NullPolicy::Skip => "skip",
                NullPolicy::Zero => "zero",
            }
            .to_owned(),
            duplicates: match args.duplicates {
                Duplicates::Last => "last",
                Duplicates::First => "first",
                Duplicates::Error => "error",
            }
            .to_owned(),
            max_bad_rows: args.max_bad_rows,
            require_success: args.require_success,
        }),
    };
    let reply = control.submit_load(request).await.map_err(|failure| match failure.code {
        "deadline_exceeded" => failure.hint(format!(
            "it is not known whether the task was made: submitting again with --submit-id {submit_id} cannot make a second one"
        )),
        _ => failure,
    })?;
    let task = reply.task.ok_or_else(|| Failure::failed("the control API answered without a task"))?;
    let mut submitted = Submitted { created: reply.created, task: task.into() };
    if !args.wait {
        return context.print(&submitted, |out| writeln!(out, "{}", first_line(&submitted)));
    }
    if !context.is_json() {
        context.print(&submitted, |out| writeln!(out, "{}", first_line(&submitted)))?;
    }
    submitted.task = wait(context, &control, &args.table, submitted.task.task).await?;
    context.print(&submitted, |out| writeln!(out, "{}", submitted.task.line()))?;
    require_finished(&submitted.task)
}

fn first_line(submitted: &Submitted) -> String {
    let Submitted { created, task } = submitted;
    if *created {
        format!("task {} of table {} submitted, submit id {}", task.task, task.table, task.submit_id)
    } else {
        format!("submit id {} stands for a task already: {}", task.submit_id, task.line())
    }
}

/// A URL stays as it is; a local path becomes an absolute `file://` URL. A glob is still one afterwards.
fn input_url(input: &str) -> Outcome<String> {
    let scheme = input.split_once("://").map(|(scheme, _)| scheme);
    let is_url = scheme.is_some_and(|scheme| {
        scheme.starts_with(|c: char| c.is_ascii_lowercase())
            && scheme.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "+.-".contains(c))
    });
    if is_url {
        return Ok(input.to_owned());
    }
    if input.is_empty() {
        return Err(Failure::usage("--input must not be empty"));
    }
    let mut path = std::path::absolute(Path::new(input)).context(|| format!("make `{input}` an absolute path"))?;
    if path.components().any(|part| part == Component::ParentDir) {
        // What `..` means depends on links, so the system resolves the part of the path that is no pattern.
        path = resolve_plain_prefix(&path).context(|| format!("resolve the path `{input}`"))?;
    }
    let text = path.to_str().ok_or_else(|| Failure::usage(format!("the path of `{input}` is not UTF-8")))?;
    Ok(format!("file://{}", text.trim_end_matches('/')))
}

/// Resolves links and `..` in the components before the first one that is a pattern.
fn resolve_plain_prefix(path: &Path) -> std::io::Result<PathBuf> {
    let is_pattern = |part: &Component<'_>| part.as_os_str().to_string_lossy().contains(['*', '?', '[', '{']);
    let plain: PathBuf = path.components().take_while(|part| !is_pattern(part)).collect();
    let pattern: PathBuf = path.components().skip_while(|part| !is_pattern(part)).collect();
    let resolved = plain.canonicalize()?;
    Ok(if pattern.as_os_str().is_empty() { resolved } else { resolved.join(pattern) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn local_paths_become_absolute_and_urls_stay() {
        for url in ["s3://bucket/a/*.parquet", "file:///data/x", "hdfs://nn/a"] {
            assert_eq!(input_url(url), Ok(url.to_owned()));
        }
        assert_eq!(input_url("/data/day=1/*.parquet"), Ok("file:///data/day=1/*.parquet".to_owned()));
        let here = std::env::current_dir().expect("a working directory");
        assert_eq!(input_url("x.parquet"), Ok(format!("file://{}", here.join("x.parquet").display())));
        assert_eq!(input_url("/data/dir/"), Ok("file:///data/dir".to_owned()));
        assert!(input_url("").is_err());
    }

    #[test]
    fn dots_are_resolved_where_they_are_no_pattern() {
        let dir = tempfile::tempdir().expect("a temporary directory");
        let root = dir.path().canonicalize().expect("it exists");
        let below = root.join("below");
        fkv_env::Files::create_dir_all(&fkv_env::OsFiles, &below).expect("created");
        let written = format!("{}/../*.parquet", below.display());
        assert_eq!(input_url(&written), Ok(format!("file://{}/*.parquet", root.display())));
        assert!(input_url(&format!("{}/none/../x", root.display())).is_err(), "no such directory");
    }
}
