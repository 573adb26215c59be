//! `fkv table`: create, list, show, delete.

use fkv_rpc::control;
use serde::Serialize;

use crate::cli::{Filter, RetainOld, TableCreateArgs, TableDeleteArgs, TableVerb};
use crate::context::Context;
use crate::control::Control;
use crate::failure::{Failure, Outcome};
use crate::view::{TableView, write_tables};

pub(super) async fn run(context: &Context, verb: TableVerb) -> Outcome {
    let control = Control::new(context)?;
    match verb {
        TableVerb::Create(args) => create(context, &control, args).await,
        TableVerb::List => list(context, &control).await,
        TableVerb::Show { table } => {
            let table = TableView::from(control.show_table(control::ShowTableRequest { table }).await?);
            context.print(&table, |out| table.write(out))
        }
        TableVerb::Delete(args) => delete(context, &control, args).await,
    }
}

async fn create(context: &Context, control: &Control, args: TableCreateArgs) -> Outcome {
    let request = control::CreateTableRequest {
        name: args.table,
        kind: args.kind.to_string(),
        key_type: args.key_type.to_string(),
        value_type: args.value_type.to_string(),
        storage: args.storage.to_string(),
        f16_overflow: args.f16_overflow.to_string(),
        ttl: args.ttl,
        retain_versions: args.retain_versions,
        retain_old: match args.retain_old {
            RetainOld::Ram => "ram",
            RetainOld::Disk => "disk",
        }
        .to_owned(),
        filter: match args.filter {
            None => "",
            Some(Filter::None) => "none",
            Some(Filter::Fuse8) => "fuse8",
        }
        .to_owned(),
    };
    let table = TableView::from(control.create_table(request).await?);
    context.print(&table, |out| {
        writeln!(out, "table {} created", table.name)?;
        table.write(out)
    })
}

async fn list(context: &Context, control: &Control) -> Outcome {
    #[derive(Serialize)]
    struct Tables {
        tables: Vec<TableView>,
    }
    let reply = control.list_tables(control::ListTablesRequest {}).await?;
    let tables = Tables { tables: reply.tables.into_iter().map(Into::into).collect() };
    context.print(&tables, |out| write_tables(&tables.tables, out))
}

async fn delete(context: &Context, control: &Control, args: TableDeleteArgs) -> Outcome {
    #[derive(Serialize)]
    struct Deleted {
        deleted: bool,
        dry_run: bool,
        table: Option<TableView>,
    }
    if !args.yes && !args.dry_run && args.expected_epoch.is_none() {
        return Err(Failure::usage(format!("deleting table {} removes all its versions", args.table)).hint(
            "add --yes, or --expected-epoch with the epoch that `fkv table show` prints; --dry-run only checks",
        ));
    }
    let name = args.table.clone();
    let request =
        control::DropTableRequest { table: args.table, expected_epoch: args.expected_epoch, dry_run: args.dry_run };
    let reply = control.drop_table(request).await?;
    let deleted = Deleted { deleted: !reply.dry_run, dry_run: reply.dry_run, table: reply.table.map(Into::into) };
    context.print(&deleted, |out| {
        if deleted.deleted {
            writeln!(out, "table {name} deleted")
        } else {
            writeln!(out, "table {name} would be deleted; nothing was changed")
        }
    })
}
