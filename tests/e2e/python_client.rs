//! A client in another language: Python, from `docs/protocol.md` alone, with message types by gRPC reflection.

use fkv_formats::id::Version;
use fkv_formats::schema::{F16Overflow, KeyType, Schema, Storage, TableKind, ValueType};
use fkv_rpc::control::LoadSpec;
use fkv_tests::cluster::Cluster;
use fkv_tests::control::full_load;
use fkv_tests::model::{Answer, Model, Shape};
use fkv_tests::python;
use serde::Deserialize;

#[derive(Debug, Deserialize)]
struct Printed {
    roles: Vec<u16>,
    label: Label,
    answers: Vec<(String, String)>,
}

#[derive(Debug, Deserialize)]
struct Label {
    version: u64,
    content: String,
    epoch: u64,
    aligned_version: u64,
    aligned_content: String,
    aligned_epoch: u64,
    other_version: u64,
    as_of_s: u32,
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Runs the Python client in a thread that may block.
async fn run(cluster: &Cluster, arguments: Vec<String>) -> String {
    cluster.env.blocking(move || python::run("packed_client.py", arguments)).await.expect("the client runs")
}

async fn get(cluster: &Cluster, address: &str, table: &str, keys: impl Iterator<Item = Vec<u8>>) -> Printed {
    let arguments = ["get".to_owned(), address.to_owned(), table.to_owned()];
    let printed = run(cluster, arguments.into_iter().chain(keys.map(|key| hex(&key))).collect()).await;
    serde_json::from_str(&printed).unwrap_or_else(|error| panic!("{error}: {printed}"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_in_python_reads_what_the_specification_promises() {
    let cluster = Cluster::start(2, 3).await;
    for (address, service, other) in [
        (cluster.control_address(), "featurekv.control.v1.Control", "featurekv.kv.v1.Kv"),
        (cluster.addresses().remove(0), "featurekv.kv.v1.Kv", "featurekv.control.v1.Control"),
    ] {
        let services = run(&cluster, vec!["services".into(), address.clone()]).await;
        for listed in [service, "grpc.health.v1.Health"] {
            assert!(services.lines().any(|line| line == listed), "{address} does not list {listed}: {services}");
        }
        assert!(!services.contains(other), "{address} lists what it does not serve: {services}");
    }

    let models = [("bytes-values", Shape::Bytes), ("numbers", Shape::I64)];
    for (table, shape) in models {
        let model = Model::new(77, 300, shape);
        cluster.control.create(table, &model.schema()).await;
        for version in 1..=2 {
            cluster.control.load(table, cluster.model_load(table, &model, Version(version))).await;
        }
        for address in [&cluster.addresses()[0], &cluster.addresses()[5]] {
            let keys = (0..320).map(|index| model.key(index).to_le_bytes().to_vec());
            let printed = get(&cluster, address, table, keys).await;
            assert_eq!(printed.roles, [0, 1, 2], "keys of all roles");
            for (index, (status, value)) in (0..320).zip(&printed.answers) {
                let found = match (status.as_str(), model.answer(Version(2), 0, index, 0)) {
                    ("absent", Answer::Absent) => true,
                    ("found", Answer::Found(wanted)) => *value == hex(&wanted),
                    _ => false,
                };
                assert!(found, "key {index} of `{table}` is {status} {value}");
            }
            let shown = cluster.control.table(table).await.aligned.expect("aligned");
            let label = printed.label;
            assert_eq!((label.version, label.epoch), (2, 2));
            assert_eq!((label.aligned_version, label.aligned_epoch), (2, 2));
            assert_eq!((&label.content, &label.aligned_content), (&shown.content_id, &shown.content_id));
            assert_eq!(label.other_version, 1, "the image before is the other one");
            assert!(label.as_of_s > 0);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_in_python_reads_byte_keys_and_vectors() {
    let cluster = Cluster::start(1, 5).await;
    let path = cluster.input("vectors.parquet");
    let keys: Vec<String> = (0..200).map(|n| format!("user:{n}")).collect();
    write_vectors(&path, &keys);
    let schema = Schema {
        kind: TableKind::Mem,
        key: KeyType::Bytes,
        value: ValueType::F32(2),
        storage: Storage::Native,
        f16_overflow: F16Overflow::Reject,
        ttl: false,
    };
    cluster.control.create("vectors", &schema).await;
    let spec =
        LoadSpec { value_columns: vec!["x".into(), "y".into()], ..full_load([format!("file://{}", path.display())]) };
    cluster.control.load("vectors", spec).await;
    let asked = keys.iter().map(|key| key.clone().into_bytes()).chain([b"nobody".to_vec()]);
    let printed = get(&cluster, &cluster.addresses()[0], "vectors", asked).await;
    assert_eq!(printed.answers.len(), 201);
    for (n, (status, value)) in printed.answers.iter().enumerate().take(200) {
        let wanted = [n as f32, -0.5 * n as f32].map(f32::to_le_bytes).concat();
        assert_eq!((status.as_str(), value), ("found", &hex(&wanted)), "key {n}");
    }
    assert_eq!(printed.answers[200].0, "absent");
}

#[allow(clippy::disallowed_methods, reason = "writes the input of a test, as a user's job would")]
fn write_vectors(path: &std::path::Path, keys: &[String]) {
    use std::sync::Arc;

    use arrow_array::{ArrayRef, Float32Array, RecordBatch, StringArray};

    std::fs::create_dir_all(path.parent().expect("a directory")).expect("made");
    let numbers = |scale: f32| Float32Array::from_iter_values((0..keys.len()).map(|n| n as f32 * scale));
    let columns: [(&str, ArrayRef); 3] = [
        ("y", Arc::new(numbers(-0.5))),
        ("key", Arc::new(StringArray::from_iter_values(keys))),
        ("x", Arc::new(numbers(1.0))),
    ];
    let batch = RecordBatch::try_from_iter(columns).expect("columns of one length");
    let file = std::fs::File::create(path).expect("created");
    let mut writer = parquet::arrow::ArrowWriter::try_new(file, batch.schema(), None).expect("a writer");
    writer.write(&batch).expect("written");
    writer.close().expect("closed");
}
