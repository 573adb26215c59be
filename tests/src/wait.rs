//! Waiting for a condition instead of for a while.

use std::time::Duration;

use fkv_env::Env;

/// How long anything in these tests may take before it counts as stuck. Generous: two busy cores share many tests.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Asks `probe` again and again until it gives something.
///
/// # Panics
/// After [`PATIENCE`]; the message has `what` and the last state `probe` told.
pub async fn until<T>(env: &Env, what: &str, mut probe: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = env.clock.monotonic() + PATIENCE;
    loop {
        match probe().await {
            Ok(value) => return value,
            Err(state) if env.clock.monotonic() > deadline => panic!("gave up waiting for {what}; last seen: {state}"),
            Err(_) => env.clock.sleep(Duration::from_millis(20)).await,
        }
    }
}

/// `Err(state)` unless `condition`; for [`until`].
///
/// # Errors
/// `state`, when the condition does not hold.
pub fn check(condition: bool, state: impl FnOnce() -> String) -> Result<(), String> {
    if condition { Ok(()) } else { Err(state()) }
}
