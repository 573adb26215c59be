//! `fkv cluster`: init, show.

use std::str::FromStr;

use fkv_rpc::control;

use crate::cli::ClusterVerb;
use crate::context::Context;
use crate::control::Control;
use crate::failure::Outcome;
use crate::view::ClusterView;

/// A sect as written on the command line: `NAME=SERVER@HOST:PORT,SERVER@HOST:PORT,…`, a server per role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SectArgument {
    name: String,
    /// Server id and address, by role.
    servers: Vec<(String, String)>,
}

impl FromStr for SectArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let expected = "expected NAME=SERVER@HOST:PORT,SERVER@HOST:PORT,… with a server per role";
        let (name, servers) = text.split_once('=').ok_or(expected)?;
        let servers = servers
            .split(',')
            .map(|server| {
                let (id, address) = server.split_once('@').ok_or(format!("`{server}`: {expected}"))?;
                let port = address.rsplit_once(':').and_then(|(_, port)| port.parse::<u16>().ok());
                if id.is_empty() || port.is_none() {
                    return Err(format!("`{server}`: {expected}"));
                }
                Ok((id.to_owned(), address.to_owned()))
            })
            .collect::<Result<Vec<_>, String>>()?;
        if name.is_empty() { Err(expected.to_owned()) } else { Ok(Self { name: name.to_owned(), servers }) }
    }
}

pub(super) async fn run(context: &Context, verb: ClusterVerb) -> Outcome {
    let control = Control::new(context)?;
    match verb {
        ClusterVerb::Init { sect } => {
            let request = control::InitClusterRequest { sects: sect.into_iter().map(sect_spec).collect() };
            let cluster = ClusterView::from(control.init_cluster(request).await?);
            context.print(&cluster, |out| cluster.write(out))
        }
        ClusterVerb::Show => {
            let cluster = ClusterView::from(control.show_cluster(control::ShowClusterRequest {}).await?);
            context.print(&cluster, |out| cluster.write(out))
        }
    }
}

fn sect_spec(sect: SectArgument) -> control::SectSpec {
    let server = |(server, address)| control::ServerSpec { server, address };
    control::SectSpec { name: sect.name, servers: sect.servers.into_iter().map(server).collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sect_names_a_server_per_role_in_order() {
        let sect: SectArgument = "a=k0@10.0.0.1:7310,k1@host:7311,k2@[::1]:7312".parse().expect("valid");
        assert_eq!(sect.name, "a");
        let expected = [("k0", "10.0.0.1:7310"), ("k1", "host:7311"), ("k2", "[::1]:7312")];
        assert!(sect.servers.iter().map(|(id, address)| (id.as_str(), address.as_str())).eq(expected));
        for text in ["a", "a=", "=k@h:1", "a=k@h", "a=@h:1", "a=k@h:1,", "a=k0:1"] {
            assert!(text.parse::<SectArgument>().is_err(), "{text}");
        }
    }
}
