//! Versions after their commit: forms, pins, the way out.

use fkv_formats::id::Version;

use super::{named_version, referred};
use crate::key::check_name;
use crate::record::{FormRef, VersionRecord, VersionState};
use crate::refusal::Refusal;
use crate::stamped::Planned;
use crate::state::table::{check_live, check_usable, need};
use crate::store::Op;
use crate::view::View;

/// Adds a form of the same content (a checkpoint).
///
/// # Errors
/// `NoTable`, `NoVersion`, `NotLive`, `Invalid`.
pub fn add_form(view: &View, table: &str, version: Version, form: FormRef) -> Result<Planned<VersionRecord>, Refusal> {
    let (table, version) = named_version(view, table, version)?;
    check_live(&table.value, &version.value)?;
    let mut after = referred(&version.value);
    if after.forms.iter().any(|known| known.object == form.object) {
        return Err(Refusal::Invalid(format!("version {} has that form already", after.version)));
    }
    if after.forms.len() >= VersionRecord::FORMS_MAX {
        return Err(Refusal::Invalid(format!("a version has at most {} forms", VersionRecord::FORMS_MAX)));
    }
    after.forms.push(form);
    Ok(Planned::new(vec![version.unchanged()], vec![version.put(&after)], after))
}

/// Keeps a version from GC under a name; pinning twice under one name is no error.
///
/// # Errors
/// `NoTable`, `NoVersion`, `NotLive`, `Quarantined`, `Name`, `Invalid`.
pub fn pin(view: &View, table: &str, version: Version, name: &str) -> Result<Planned<VersionRecord>, Refusal> {
    check_name("pin", name)?;
    let (table, version) = named_version(view, table, version)?;
    check_usable(&table.value, &version.value)?;
    let mut after = referred(&version.value);
    if !after.pins.iter().any(|pin| pin == name) {
        if after.pins.len() >= VersionRecord::PINS_MAX {
            return Err(Refusal::Invalid(format!("a version has at most {} pins", VersionRecord::PINS_MAX)));
        }
        after.pins.push(name.to_owned());
    }
    // The table too: a release that quarantines the version must not slip in between.
    let compares = vec![table.unchanged(), version.unchanged()];
    Ok(Planned::new(compares, vec![version.put(&after)], after))
}

/// Ends a pin; ending none is no error.
///
/// # Errors
/// `NoTable`, `NoVersion`.
pub fn unpin(view: &View, table: &str, version: Version, name: &str) -> Result<Planned<VersionRecord>, Refusal> {
    let (_, version) = named_version(view, table, version)?;
    let mut after = version.value.clone();
    after.pins.retain(|pin| pin != name);
    Ok(Planned::new(vec![version.unchanged()], vec![version.put(&after)], after))
}

/// Gives a version that nothing needs to GC.
///
/// # Errors
/// `NoTable`, `NoVersion`, `NotLive`, `InUse`.
pub fn tombstone(view: &View, table: &str, version: Version) -> Result<Planned<VersionRecord>, Refusal> {
    let (table, version) = named_version(view, table, version)?;
    check_live(&table.value, &version.value)?;
    let all = view.versions(table.uid()).map(|version| &version.value);
    if let Some(why) = need(&table.value, &version.value, all) {
        return Err(Refusal::InUse { table: table.value.name.clone(), version: version.value.version, why });
    }
    let after = VersionRecord { state: VersionState::Tombstoned, ..version.value.clone() };
    Ok(Planned::new(vec![table.unchanged(), version.unchanged()], vec![version.put(&after)], after))
}

/// Removes the record of a tombstoned version, after its objects are gone. Its number is never used again.
///
/// # Errors
/// `NoTable`, `NoVersion`; `InUse` if it is live.
pub fn forget_version(view: &View, table: &str, version: Version) -> Result<Planned<()>, Refusal> {
    let (table, version) = named_version(view, table, version)?;
    if version.value.state == VersionState::Live {
        let why = "it is live";
        return Err(Refusal::InUse { table: table.value.name.clone(), version: version.value.version, why });
    }
    Ok(Planned::new(vec![version.unchanged()], vec![Op::Delete { key: version.key.clone() }], ()))
}
