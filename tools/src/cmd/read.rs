//! `fkv get` and `fkv batch-get`: reads through the client, as any service would do them.

use std::io::{self, BufRead};
use std::path::Path;
use std::time::Duration;

use fkv_client::{Client, ClientConfig, ClientError, KeyStatus, Keys, ReadOptions, TableAnswer};
use fkv_env::Env;
use fkv_formats::schema::{KeyType, ValueType};
use fkv_formats::value::Value;
use fkv_rpc::control;
use serde::Serialize;
use serde_json::Value as Json;

use crate::cli::{BatchGetArgs, GetArgs};
use crate::context::Context;
use crate::control::Control;
use crate::failure::{Context as _, Failure, Outcome};
use crate::key_text::{OwnedKey, key_text, parse_key};
use crate::output::Columns;
use crate::progress::while_doing;
use crate::value_text::{value_json, value_text};
use crate::view::LabelView;

/// How long a read may take: a person waits, and the batch may be large.
const READ_TIME_MAX: Duration = Duration::from_secs(20);
/// How long one request may take before another sect is asked.
const RPC_TIME_MAX: Duration = Duration::from_secs(5);
/// Most bytes of a list of keys.
const KEYS_BYTES_MAX: u64 = 1 << 30;

#[derive(Serialize)]
struct AnswerView {
    key: String,
    status: &'static str,
    value: Option<Json>,
    #[serde(skip)]
    text: String,
}

/// The document of `get`.
#[derive(Serialize)]
struct GetView<'a> {
    table: &'a str,
    #[serde(flatten)]
    answer: &'a AnswerView,
    label: &'a LabelView,
}

/// The document of `batch-get`.
#[derive(Serialize)]
struct BatchView {
    table: String,
    label: LabelView,
    answers: Vec<AnswerView>,
}

pub(super) async fn get(context: &Context, args: GetArgs) -> Outcome {
    let batch = read(context, &args.table, &[args.key]).await?;
    let answer = batch.answers.first().ok_or_else(|| Failure::failed("the client answered without the key"))?;
    let found = answer.value.is_some();
    context.print(&GetView { table: &batch.table, answer, label: &batch.label }, |out| {
        if found { writeln!(out, "{}", answer.text) } else { Ok(()) }
    })?;
    if found {
        return Ok(());
    }
    let message = format!("key {} is {} in {} of table {}", answer.key, answer.status, batch.label.text(), batch.table);
    Err(Failure::coded(answer.status, message))
}

pub(super) async fn batch_get(context: &Context, args: BatchGetArgs) -> Outcome {
    let keys = match (&args.keys_file, args.keys.as_slice()) {
        (Some(file), _) => keys_of_file(context, file).await?,
        (None, [dash]) if dash == "-" => {
            let read = context.env.blocking(|| lines(io::stdin().lock())).await;
            read.map_err(|error| Failure::failed(error.to_string()))?
                .context(|| "read keys from standard input".to_owned())?
        }
        (None, _) => args.keys,
    };
    let batch = read(context, &args.table, &keys).await?;
    context.print(&batch, |out| {
        let mut columns = Columns::new(&["key", "status", "value"]);
        for answer in &batch.answers {
            columns.row([answer.key.clone(), answer.status.to_owned(), answer.text.clone()]);
        }
        columns.write(out)?;
        let found = batch.answers.iter().filter(|answer| answer.value.is_some()).count();
        writeln!(out, "{found} of {} found in {}", batch.answers.len(), batch.label.text())
    })
}

async fn keys_of_file(context: &Context, file: &Path) -> Outcome<Vec<String>> {
    let (files, path) = (context.env.files.clone(), file.to_owned());
    let read = context.env.blocking(move || lines(files.read(&path)?.as_slice())).await;
    read.map_err(|error| Failure::failed(error.to_string()))?.context(|| format!("read keys from {}", file.display()))
}

/// The lines of a list of keys. An empty line is a key of no bytes, but for the end of the list.
fn lines(input: impl BufRead) -> io::Result<Vec<String>> {
    let mut input = io::Read::take(input, KEYS_BYTES_MAX + 1);
    let lines = io::Read::by_ref(&mut input).lines().map(|line| line.map(strip_return)).collect::<io::Result<_>>()?;
    if input.limit() == 0 {
        // The last key may be cut in the middle, and read as another one: nothing is read then.
        let reason = format!("the list of keys is longer than {KEYS_BYTES_MAX} bytes: read it in pieces");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(lines)
}

fn strip_return(mut line: String) -> String {
    if line.ends_with('\r') {
        line.pop();
    }
    line
}

async fn read(context: &Context, table: &str, keys: &[String]) -> Outcome<BatchView> {
    let control = Control::new(context)?;
    // Asked first: it says more clearly than a KVSvr what a table is, or that there is none.
    let declared = control.show_table(control::ShowTableRequest { table: table.to_owned() }).await?;
    let key_type: KeyType = declared.key_type.parse().map_err(Failure::failed)?;
    if keys.is_empty() {
        return Err(Failure::usage("there are no keys to read"));
    }
    let parsed: Vec<OwnedKey> = keys.iter().map(|key| parse_key(key, key_type)).collect::<Outcome<_>>()?;
    if declared.aligned.is_none() {
        return Err(Failure::coded("not_loaded", format!("table {table} shows no version yet"))
            .hint("load one with `fkv submit-load-task`; `fkv table show` tells what it waits for"));
    }
    let client = connect(&context.env, &control, ClientConfig::new([""; 0])).await?;
    let options = ReadOptions { deadline: Some(READ_TIME_MAX), ..ReadOptions::default() };
    let (numbers, bytes): (Vec<u64>, Vec<&[u8]>) = match key_type {
        KeyType::U64 => (parsed.iter().filter_map(OwnedKey::number).collect(), Vec::new()),
        KeyType::Bytes => (Vec::new(), parsed.iter().filter_map(OwnedKey::bytes).collect()),
    };
    let asked = match key_type {
        KeyType::U64 => Keys::U64(&numbers),
        KeyType::Bytes => Keys::Bytes(&bytes),
    };
    let reading = client.get(table, asked, &options);
    let answer = while_doing(&context.env.clock, "reading", reading).await.map_err(|error| read_failure(&error))?;
    let answers = parsed.iter().enumerate().map(|(position, key)| answer_view(&answer, position, key)).collect();
    let label = LabelView {
        version: answer.label.version.0,
        content_id: answer.label.content.to_string(),
        epoch: answer.label.epoch.0,
    };
    Ok(BatchView { table: table.to_owned(), label, answers })
}

/// A client of the module whose control API is given, with `config` but for its endpoints and times.
pub(crate) async fn connect(env: &Env, control: &Control, config: ClientConfig) -> Outcome<Client> {
    let cluster = control.show_cluster(control::ShowClusterRequest {}).await?;
    let active = cluster.sects.iter().filter(|sect| sect.state == "active");
    let slots: Vec<&control::SlotInfo> = active.flat_map(|sect| &sect.slots).collect();
    if slots.is_empty() {
        return Err(Failure::coded(
            "unavailable",
            format!("module {} has no active sect to read from", cluster.module),
        )
        .hint("declare its servers with `fkv cluster init`"));
    }
    // Servers that are up first: the client asks its endpoints in order.
    let (up, down): (Vec<_>, Vec<_>) = slots.into_iter().partition(|slot| slot.claimed);
    let mut endpoints: Vec<String> = up.into_iter().chain(down).map(|slot| slot.address.clone()).collect();
    let mut known = std::collections::BTreeSet::new();
    endpoints.retain(|address| known.insert(address.clone()));
    let config = ClientConfig { endpoints, rpc_timeout: RPC_TIME_MAX, deadline: READ_TIME_MAX, ..config };
    Client::connect(env.clone(), config).await.map_err(|error| read_failure(&error))
}

fn answer_view(answer: &TableAnswer, position: usize, key: &OwnedKey) -> AnswerView {
    let (status, value) = match answer.status(position) {
        KeyStatus::Absent => ("absent", None),
        KeyStatus::Expired => ("expired", None),
        KeyStatus::Found => ("found", value_at(answer, position)),
    };
    AnswerView {
        key: key_text(key),
        status,
        text: value.as_ref().map(value_text).unwrap_or_default(),
        value: value.as_ref().map(value_json),
    }
}

fn value_at(answer: &TableAnswer, position: usize) -> Option<Value> {
    match answer.value_type() {
        ValueType::Bytes => answer.bytes(position).map(|bytes| Value::Bytes(bytes.to_vec())),
        ValueType::I64 => answer.i64(position).map(Value::I64),
        ValueType::F32(_) => answer.f32s(position).map(|numbers| Value::F32(numbers.to_vec())),
        ValueType::F16(_) => answer.f16s(position).map(|numbers| Value::F16(numbers.to_vec())),
    }
}

/// What a failed read means for whoever typed the command. The client's messages say what to do.
fn read_failure(error: &ClientError) -> Failure {
    let code = match error {
        ClientError::UnknownTable { .. } => "not_found",
        ClientError::WrongKeyType { .. } => return Failure::usage(error.to_string()),
        ClientError::BatchTooLarge(_) => "resource_exhausted",
        ClientError::NoCommonVersion { .. } => "no_common_version",
        ClientError::NotLoaded { .. } => "not_loaded",
        ClientError::Unavailable(_) => "unavailable",
        ClientError::DeadlineExceeded(_) => "deadline_exceeded",
        ClientError::BadRequest(_) => "invalid_argument",
    };
    Failure::coded(code, error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_of_keys_is_its_lines() {
        let keys = |text: &str| lines(text.as_bytes()).expect("text");
        assert_eq!(keys("a\nb\n"), ["a", "b"]);
        assert_eq!(keys("a\r\nb"), ["a", "b"]);
        assert_eq!(keys("\na\n"), ["", "a"]);
        assert!(keys("").is_empty());
        assert!(lines(&[0xff, b'\n'][..]).is_err(), "bytes that are no text are written as 0x…");
    }
}
