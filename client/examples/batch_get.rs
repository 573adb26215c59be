//! Reads a few 64-bit keys of one table and prints what came back.
//!
//! ```sh
//! cargo run --release -p fkv-client --example batch_get -- 127.0.0.1:7310 user_features 1 2 3
//! ```

use fkv_client::{ClientConfig, ClientError, KeyStatus, Keys, ReadOptions, TableAnswer, blocking};
use fkv_env::Env;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let (Some(endpoint), Some(table)) = (arguments.next(), arguments.next()) else {
        return Err("usage: batch_get HOST:PORT TABLE KEY...".into());
    };
    let keys = arguments.map(|key| key.parse()).collect::<Result<Vec<u64>, _>>()?;

    let client = blocking::Client::connect(Env::real(1)?, ClientConfig::new([endpoint]))?;
    match client.get(&table, Keys::U64(&keys), &ReadOptions::default()) {
        Ok(answer) => print(&keys, &answer),
        Err(error @ ClientError::NotLoaded { .. }) => eprintln!("not yet: {error}"),
        Err(error) => return Err(error.into()),
    }
    Ok(())
}

fn print(keys: &[u64], answer: &TableAnswer) {
    let label = answer.label;
    println!("version {} (content {}, epoch {})", label.version, label.content.short(), label.epoch);
    for (position, key) in keys.iter().enumerate() {
        match answer.status(position) {
            KeyStatus::Absent => println!("{key}: absent"),
            KeyStatus::Expired => println!("{key}: expired"),
            KeyStatus::Found => {
                if let Some(vector) = answer.f32s(position) {
                    println!("{key}: {vector:?}");
                } else if let Some(vector) = answer.f16s(position) {
                    println!("{key}: {vector:?}");
                } else if let Some(number) = answer.i64(position) {
                    println!("{key}: {number}");
                } else if let Some(bytes) = answer.bytes(position) {
                    println!("{key}: {:?}", String::from_utf8_lossy(bytes));
                }
            }
        }
    }
}
