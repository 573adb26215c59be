//! `fkv version`: list, show.

use fkv_rpc::control;
use serde::Serialize;

use crate::cli::VersionVerb;
use crate::context::Context;
use crate::control::Control;
use crate::failure::Outcome;
use crate::view::{VersionView, write_versions};

pub(super) async fn run(context: &Context, verb: VersionVerb) -> Outcome {
    let control = Control::new(context)?;
    match verb {
        VersionVerb::List { table } => list(context, &control, table).await,
        VersionVerb::Show { table, version } => {
            let request = control::ShowVersionRequest { table, version };
            let version = VersionView::from(control.show_version(request).await?);
            context.print(&version, |out| version.write(out))
        }
    }
}

async fn list(context: &Context, control: &Control, table: String) -> Outcome {
    #[derive(Serialize)]
    struct Versions {
        table: String,
        versions: Vec<VersionView>,
    }
    let reply = control.list_versions(control::ListVersionsRequest { table: table.clone() }).await?;
    let mut versions: Vec<VersionView> = reply.versions.into_iter().map(Into::into).collect();
    versions.sort_by_key(|version| std::cmp::Reverse(version.version));
    let versions = Versions { table, versions };
    context.print(&versions, |out| write_versions(&versions.versions, out))
}
