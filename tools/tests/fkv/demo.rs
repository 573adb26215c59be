//! The demo in small: it ends well, and every line is JSON with figures.

use serde_json::Value;

use crate::harness::{Place, fkv, text};

#[test]
fn the_demo_checks_every_answer_and_tells_its_figures() {
    let run = fkv(&["demo", "--rows", "40000", "--output", "json"]).exits(0);
    let steps: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
    let names: Vec<&str> = steps.iter().filter_map(|step| step["step"].as_str()).collect();
    assert_eq!(names, ["start", "write", "load", "check", "read", "flip", "rollback", "release", "summary"]);
    let step = |name: &str| &steps[names.iter().position(|step| *step == name).expect("just compared")]["figures"];
    // Every user of both tables, and those of no version.
    assert_eq!(step("check")["found"], 45_000);
    assert!(step("check")["keys"].as_u64() > Some(45_000));
    for name in ["check", "read"] {
        assert_eq!((&step(name)["wrong"], &step(name)["mixed"]), (&0.into(), &0.into()), "{name}");
        assert!(step(name)["keys_per_s"].as_f64() > Some(0.0), "{name}");
    }
    // Two readers, two tables: each sees each flip.
    assert_eq!((&step("flip")["flips"], &step("rollback")["flips"]), (&4.into(), &4.into()));
    assert_eq!(step("rollback")["flips_at_once"], true);
    assert_eq!(step("summary")["mixed_answers"], "0");
}

#[test]
fn the_demo_does_not_write_into_a_directory_in_use() {
    let place = Place::new();
    let file = place.file("mine");
    fkv_env::Files::write_durably(&fkv_env::OsFiles, &file, b"precious").expect("written");
    let dir = file.parent().expect("it has one");
    fkv(&["demo", "--rows", "40000", "--dir", text(dir)]).refuses(1, &["not empty"]);
    assert_eq!(fkv_env::Files::list(&fkv_env::OsFiles, dir).expect("listed").len(), 1);
}

#[test]
fn the_demo_runs_on_tables_whose_records_are_on_ssd() {
    for kind in ["idx", "blk"] {
        let run = fkv(&["demo", "--kind", kind, "--rows", "10000", "--output", "json"]).exits(0);
        let steps: Vec<Value> = run.stdout.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect();
        let figures = |name: &str| {
            let step = steps.iter().find(|step| step["step"] == name);
            &step.unwrap_or_else(|| panic!("{kind}: no step {name}"))["figures"]
        };
        assert_eq!(figures("check")["found"], 11_250, "{kind}");
        assert_eq!((&figures("flip")["flips"], &figures("rollback")["flips"]), (&4.into(), &4.into()), "{kind}");
        assert_eq!(figures("summary")["mixed_answers"], "0", "{kind}");
        assert_eq!(figures("summary")["wrong_values"], "0", "{kind}");
    }
}
