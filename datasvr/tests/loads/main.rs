//! A DataSvr over embedded metadata and a file store: from submitted files to versions that decode to exactly the
//! rows.

mod bad_input;
mod cases;
mod control;
mod cut_text;
mod deletes;
mod distributed;
mod encodings;
mod full_load;
mod gates;
mod kills;
mod parquet_files;
mod workers;
mod world;
