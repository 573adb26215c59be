//! `fkv release`.

use fkv_rpc::control;
use serde::Serialize;

use super::rollback::wait_until_shown;
use crate::cli::ReleaseArgs;
use crate::context::Context;
use crate::control::Control;
use crate::failure::{Failure, Outcome};
use crate::view::TableView;

#[derive(Serialize)]
struct Released {
    dry_run: bool,
    version: u64,
    table: TableView,
}

pub(super) async fn run(context: &Context, args: ReleaseArgs) -> Outcome {
    let control = Control::new(context)?;
    let request =
        control::ReleaseRequest { table: args.table, expected_epoch: args.expected_epoch, dry_run: args.dry_run };
    let reply = control.release(request).await?;
    let mut done = Released {
        dry_run: reply.dry_run,
        version: reply.version,
        table: reply.table.ok_or_else(|| Failure::failed("the control API answered without a table"))?.into(),
    };
    if args.wait && !done.dry_run {
        done.table = wait_until_shown(context, &control, &done.table).await?;
    }
    context.print(&done, |out| {
        let (name, version) = (&done.table.name, done.version);
        if done.dry_run {
            writeln!(out, "table {name} would be released as version {version}; nothing was changed")
        } else {
            writeln!(out, "table {name} is released: what it shows is now version {version}, loads are allowed again")
        }
    })
}
