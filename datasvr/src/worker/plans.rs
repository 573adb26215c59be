//! Plans that were read: every worker needs the plan of a running task to know its jobs, and reads it once.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};

use fkv_meta::View;
use fkv_meta::record::{ObjectRef, TaskState};
use fkv_store::Store;

use crate::error::AttemptError;
use crate::object;
use crate::plan::{Formatted, FrozenInputs, Plan, PlannedJob, from_json};

/// A frozen plan.
#[derive(Debug)]
pub(crate) struct TaskPlan {
    /// What pins it.
    pub(crate) pin: ObjectRef,
    /// The plan.
    pub(crate) plan: Plan,
    /// The frozen input list.
    pub(crate) inputs: FrozenInputs,
}

impl TaskPlan {
    /// The job with this name.
    pub(crate) fn job(&self, name: &str) -> Option<&PlannedJob> {
        self.plan.jobs.iter().find(|job| job.name == name)
    }
}

/// The plans of running tasks, as far as they were read.
#[derive(Debug, Default)]
pub(crate) struct Plans {
    /// By the path of the plan.
    read: Mutex<BTreeMap<String, Arc<TaskPlan>>>,
}

impl Plans {
    /// A plan, if it was read.
    pub(crate) fn known(&self, pin: &ObjectRef) -> Option<Arc<TaskPlan>> {
        let read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        read.get(&pin.path).filter(|plan| plan.pin == *pin).map(Arc::clone)
    }

    /// A plan and its inputs, read unless they were.
    ///
    /// # Errors
    /// The store fails, or the objects are not those pinned.
    pub(crate) async fn get(
        &self,
        store: &Store,
        pin: &ObjectRef,
        inputs: &ObjectRef,
    ) -> Result<Arc<TaskPlan>, AttemptError> {
        if let Some(plan) = self.known(pin) {
            return Ok(plan);
        }
        let (plan, inputs) = futures::future::try_join(read_json(store, pin), read_json(store, inputs)).await?;
        let read = Arc::new(TaskPlan { pin: pin.clone(), plan, inputs });
        self.read.lock().unwrap_or_else(PoisonError::into_inner).insert(pin.path.clone(), Arc::clone(&read));
        Ok(read)
    }

    /// Forgets the plans of tasks that no longer run.
    pub(crate) fn forget_ended(&self, view: &View) {
        self.read.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, read| {
            let task = view.task(read.plan.uid, read.plan.task);
            task.is_none_or(|task| {
                task.value.state == TaskState::Running && task.value.plan.as_ref() == Some(&read.pin)
            })
        });
    }
}

/// Reads a JSON object of ours that a record pins.
pub(crate) async fn read_json<T>(store: &Store, pin: &ObjectRef) -> Result<T, AttemptError>
where
    T: for<'a> serde::Deserialize<'a> + Formatted,
{
    let bytes = object::get(store, pin).await?;
    from_json(&bytes).map_err(|reason| AttemptError::Object { path: object::url(store, &pin.path), reason })
}
