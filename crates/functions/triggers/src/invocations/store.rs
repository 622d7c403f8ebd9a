//! The file in which calls are: a redb database, written by one thread.
//!
//! Everything that waits to be written goes into one transaction, so that many calls share
//! one flush to the disk. A change is answered after its commit.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use redb::{
    Database, DatabaseError, ReadableDatabase as _, ReadableTable as _, TableDefinition,
    WriteTransaction,
};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::invocations::record::Record;

/// Records by id.
const RECORDS: TableDefinition<&str, &[u8]> = TableDefinition::new("records");
/// Bodies by id.
const BODIES: TableDefinition<&str, &[u8]> = TableDefinition::new("bodies");
/// When each call that waits is due.
const DUE: TableDefinition<&str, u64> = TableDefinition::new("due");
/// Calls by namespace, function and key: id, and until when the key counts.
const KEYS: TableDefinition<(&str, &str, &str), (&str, u64)> = TableDefinition::new("keys");

/// Between two tries to open a file that is open elsewhere.
const PAUSE: Duration = Duration::from_millis(20);
/// Changes that are written together.
const BATCH: usize = 256;
/// Calls that wait or are dead, of all functions.
const MOST_RECORDS: u64 = 100_000;
/// How long a key counts.
const KEY_AGE_MS: u64 = 24 * 3_600_000;
/// How long dead calls are kept.
const DEAD_AGE_MS: u64 = 14 * 24 * 3_600_000;

/// Why the store did not do what was asked.
#[derive(Clone, Debug, thiserror::Error)]
pub(crate) enum StoreError {
    /// The file.
    #[error("cannot {step} the store of asynchronous calls: {reason}")]
    Failed { step: &'static str, reason: String },
    /// Another process has the file, or the last one has not let go of it yet.
    #[error("the store of asynchronous calls is open elsewhere")]
    InUse,
    /// There is no room.
    #[error("{MOST_RECORDS} asynchronous calls wait or are dead; purge dead letters or wait")]
    Full,
}

fn failed<E: std::fmt::Display>(step: &'static str) -> impl Fn(E) -> StoreError {
    move |error| StoreError::Failed {
        step,
        reason: error.to_string(),
    }
}

/// A call that is to be stored.
#[derive(Clone, Debug)]
pub(crate) struct Added {
    pub record: Record,
    pub body: Vec<u8>,
    pub dedup_key: Option<String>,
}

/// A change.
#[derive(Debug)]
pub(crate) enum Change {
    Add(Box<Added>),
    /// Waits again.
    Later {
        record: Box<Record>,
        due_ms: u64,
    },
    /// Is over; what follows is stored with it.
    Done {
        id: String,
        next: Option<Box<Added>>,
    },
    /// Is dead; what follows is stored with it.
    Dead {
        record: Box<Record>,
        next: Option<Box<Added>>,
    },
    /// Dead ones wait again.
    Redrive {
        ids: Vec<String>,
        now_ms: u64,
    },
    /// Dead ones are deleted: these, or all of a namespace, or all.
    Purge {
        ids: Vec<String>,
        namespace: Option<String>,
    },
    /// Keys and dead calls whose time is over are deleted.
    Tidy {
        now_ms: u64,
    },
}

/// What came of a change.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Changed {
    /// Id of the call, which may be an earlier one with the same key.
    Added(String),
    Count(u64),
    Nothing,
}

type Job = (Change, oneshot::Sender<Result<Changed, StoreError>>);

/// The store; clones share it.
#[derive(Clone)]
pub(crate) struct Store {
    database: Arc<Database>,
    jobs: mpsc::Sender<Job>,
}

impl Store {
    /// As [`Self::open`], and waits for up to `patience` while the file is open elsewhere: who led
    /// before may write its last changes still.
    pub async fn open_patiently(directory: &Path, patience: Duration) -> Result<Self, StoreError> {
        let end = Instant::now() + patience;
        loop {
            match Self::open(directory) {
                Err(StoreError::InUse) if Instant::now() < end => tokio::time::sleep(PAUSE).await,
                outcome => return outcome,
            }
        }
    }

    /// Opens or makes the file and starts the thread that writes.
    pub fn open(directory: &Path) -> Result<Self, StoreError> {
        let step = "open";
        std::fs::create_dir_all(directory).map_err(failed(step))?;
        let database = Database::create(directory.join("invocations.redb"));
        let database = database.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => StoreError::InUse,
            other => failed(step)(other),
        })?;
        let write = database.begin_write().map_err(failed(step))?;
        write.open_table(RECORDS).map_err(failed(step))?;
        write.open_table(BODIES).map_err(failed(step))?;
        write.open_table(DUE).map_err(failed(step))?;
        write.open_table(KEYS).map_err(failed(step))?;
        write.commit().map_err(failed(step))?;
        let database = Arc::new(database);
        let (jobs, mut receiver) = mpsc::channel::<Job>(BATCH);
        let writer = database.clone();
        // Ends when the last store is gone.
        tokio::task::spawn_blocking(move || {
            let mut batch = Vec::new();
            while receiver.blocking_recv_many(&mut batch, BATCH) > 0 {
                write_batch(&writer, &mut batch);
            }
        });
        Ok(Self { database, jobs })
    }

    /// Makes a change; returns once it is durable.
    pub async fn change(&self, change: Change) -> Result<Changed, StoreError> {
        let (reply, answer) = oneshot::channel();
        let ended = |_| StoreError::Failed {
            step: "write",
            reason: "its writer has ended".to_owned(),
        };
        if self.jobs.send((change, reply)).await.is_err() {
            return Err(ended(()));
        }
        answer.await.map_err(|_| ended(()))?
    }

    /// All calls that wait: when, which, and whose.
    pub fn waiting(&self) -> Result<Vec<(u64, Record)>, StoreError> {
        let step = "read";
        let read = self.database.begin_read().map_err(failed(step))?;
        let due = read.open_table(DUE).map_err(failed(step))?;
        let records = read.open_table(RECORDS).map_err(failed(step))?;
        let mut waiting = Vec::new();
        for entry in due.iter().map_err(failed(step))? {
            let (id, time) = entry.map_err(failed(step))?;
            let record = records.get(id.value()).map_err(failed(step))?;
            if let Some(record) = record {
                waiting.push((time.value(), decode(record.value())?));
            }
        }
        Ok(waiting)
    }

    /// A call and its body.
    pub fn get(&self, id: &str) -> Result<Option<(Record, Vec<u8>)>, StoreError> {
        let step = "read";
        let read = self.database.begin_read().map_err(failed(step))?;
        let records = read.open_table(RECORDS).map_err(failed(step))?;
        let bodies = read.open_table(BODIES).map_err(failed(step))?;
        let Some(record) = records.get(id).map_err(failed(step))? else {
            return Ok(None);
        };
        let body = bodies.get(id).map_err(failed(step))?;
        let body = body.map(|body| body.value().to_vec()).unwrap_or_default();
        Ok(Some((decode(record.value())?, body)))
    }

    /// Dead calls after an id, in the order of their making.
    pub fn dead(
        &self,
        after: &str,
        limit: usize,
        namespace: Option<&str>,
    ) -> Result<Vec<Record>, StoreError> {
        let step = "read";
        let read = self.database.begin_read().map_err(failed(step))?;
        let records = read.open_table(RECORDS).map_err(failed(step))?;
        let mut dead = Vec::new();
        for entry in records.range(after..).map_err(failed(step))? {
            let (id, record) = entry.map_err(failed(step))?;
            let record = decode(record.value())?;
            let wanted = namespace.is_none_or(|namespace| record.namespace == namespace);
            if id.value() != after && record.dead.is_some() && wanted {
                dead.push(record);
                if dead.len() >= limit {
                    break;
                }
            }
        }
        Ok(dead)
    }
}

fn decode(bytes: &[u8]) -> Result<Record, StoreError> {
    serde_json::from_slice(bytes).map_err(failed("read a record of"))
}

/// Writes all of a batch, or nothing of it.
fn write_batch(database: &Database, batch: &mut Vec<Job>) {
    let (changes, replies): (Vec<Change>, Vec<_>) = batch.drain(..).unzip();
    let written = (|| {
        let write = database.begin_write().map_err(failed("write"))?;
        let mut answers = Vec::new();
        for change in changes {
            answers.push(match apply(&write, change) {
                Err(StoreError::Full) => Err(StoreError::Full),
                other => Ok(other?),
            });
        }
        write.commit().map_err(failed("write"))?;
        Ok::<_, StoreError>(answers)
    })();
    match written {
        Ok(answers) => {
            for (reply, answer) in replies.into_iter().zip(answers) {
                _ = reply.send(answer);
            }
        }
        Err(error) => {
            tracing::error!(%error, "changes were not stored");
            for reply in replies {
                _ = reply.send(Err(error.clone()));
            }
        }
    }
}

fn apply(write: &WriteTransaction, change: Change) -> Result<Changed, StoreError> {
    match change {
        Change::Add(added) => add(write, *added),
        Change::Later { record, due_ms } => {
            put(write, &record)?;
            let mut due = write.open_table(DUE).map_err(failed("write"))?;
            due.insert(record.id.as_str(), due_ms)
                .map_err(failed("write"))?;
            Ok(Changed::Nothing)
        }
        Change::Done { id, next } => {
            remove(write, &id)?;
            follow(write, next)
        }
        Change::Dead { record, next } => {
            put(write, &record)?;
            let mut due = write.open_table(DUE).map_err(failed("write"))?;
            due.remove(record.id.as_str()).map_err(failed("write"))?;
            drop(due);
            follow(write, next)
        }
        Change::Redrive { ids, now_ms } => redrive(write, &ids, now_ms),
        Change::Purge { ids, namespace } => purge(write, &ids, namespace.as_deref()),
        Change::Tidy { now_ms } => tidy(write, now_ms),
    }
}

/// What follows is stored even where there is no room for more: it is a promise already.
fn follow(write: &WriteTransaction, next: Option<Box<Added>>) -> Result<Changed, StoreError> {
    if let Some(added) = next {
        insert(write, &added)?;
    }
    Ok(Changed::Nothing)
}

fn add(write: &WriteTransaction, added: Added) -> Result<Changed, StoreError> {
    let record = &added.record;
    if let Some(key) = &added.dedup_key {
        let mut keys = write.open_table(KEYS).map_err(failed("write"))?;
        let place = (
            record.namespace.as_str(),
            record.function.as_str(),
            key.as_str(),
        );
        let before = keys.get(place).map_err(failed("read"))?.and_then(|entry| {
            let (id, until) = entry.value();
            (record.enqueued_ms < until).then(|| id.to_owned())
        });
        if let Some(id) = before {
            return Ok(Changed::Added(id));
        }
        room(write)?;
        let until = record.enqueued_ms.saturating_add(KEY_AGE_MS);
        keys.insert(place, (record.id.as_str(), until))
            .map_err(failed("write"))?;
    } else {
        room(write)?;
    }
    insert(write, &added)?;
    Ok(Changed::Added(added.record.id))
}

fn room(write: &WriteTransaction) -> Result<(), StoreError> {
    use redb::ReadableTableMetadata as _;
    let records = write.open_table(RECORDS).map_err(failed("read"))?;
    if records.len().map_err(failed("read"))? >= MOST_RECORDS {
        return Err(StoreError::Full);
    }
    Ok(())
}

fn insert(write: &WriteTransaction, added: &Added) -> Result<(), StoreError> {
    put(write, &added.record)?;
    let id = added.record.id.as_str();
    let mut bodies = write.open_table(BODIES).map_err(failed("write"))?;
    bodies
        .insert(id, added.body.as_slice())
        .map_err(failed("write"))?;
    let mut due = write.open_table(DUE).map_err(failed("write"))?;
    due.insert(id, added.record.enqueued_ms)
        .map_err(failed("write"))?;
    Ok(())
}

fn put(write: &WriteTransaction, record: &Record) -> Result<(), StoreError> {
    let bytes = serde_json::to_vec(record).map_err(failed("write a record of"))?;
    let mut records = write.open_table(RECORDS).map_err(failed("write"))?;
    records
        .insert(record.id.as_str(), bytes.as_slice())
        .map_err(failed("write"))?;
    Ok(())
}

fn remove(write: &WriteTransaction, id: &str) -> Result<(), StoreError> {
    let step = "write";
    let mut records = write.open_table(RECORDS).map_err(failed(step))?;
    records.remove(id).map_err(failed(step))?;
    let mut bodies = write.open_table(BODIES).map_err(failed(step))?;
    bodies.remove(id).map_err(failed(step))?;
    let mut due = write.open_table(DUE).map_err(failed(step))?;
    due.remove(id).map_err(failed(step))?;
    Ok(())
}

fn redrive(write: &WriteTransaction, ids: &[String], now_ms: u64) -> Result<Changed, StoreError> {
    let mut count = 0;
    for id in ids {
        let record = read(write, id)?.filter(|record| record.dead.is_some());
        let Some(record) = record else {
            continue;
        };
        put(write, &record.redriven(now_ms))?;
        let mut due = write.open_table(DUE).map_err(failed("write"))?;
        due.insert(id.as_str(), now_ms).map_err(failed("write"))?;
        count += 1;
    }
    Ok(Changed::Count(count))
}

fn purge(
    write: &WriteTransaction,
    ids: &[String],
    namespace: Option<&str>,
) -> Result<Changed, StoreError> {
    let mut ids = ids.to_vec();
    if ids.is_empty() {
        let records = write.open_table(RECORDS).map_err(failed("read"))?;
        for entry in records.iter().map_err(failed("read"))? {
            ids.push(entry.map_err(failed("read"))?.0.value().to_owned());
        }
    }
    let mut count = 0;
    for id in &ids {
        let record = read(write, id)?.filter(|record| {
            record.dead.is_some() && namespace.is_none_or(|wanted| record.namespace == wanted)
        });
        if record.is_some() {
            remove(write, id)?;
            count += 1;
        }
    }
    Ok(Changed::Count(count))
}

fn tidy(write: &WriteTransaction, now_ms: u64) -> Result<Changed, StoreError> {
    let mut keys = write.open_table(KEYS).map_err(failed("write"))?;
    keys.retain(|_, (_, until)| now_ms < until)
        .map_err(failed("write"))?;
    drop(keys);
    let mut old = Vec::new();
    let records = write.open_table(RECORDS).map_err(failed("read"))?;
    for entry in records.iter().map_err(failed("read"))? {
        let record = decode(entry.map_err(failed("read"))?.1.value())?;
        let died = record.dead.as_ref().map(|dead| dead.died_ms);
        if died.is_some_and(|died| died.saturating_add(DEAD_AGE_MS) < now_ms) {
            old.push(record.id);
        }
    }
    drop(records);
    for id in &old {
        remove(write, id)?;
    }
    Ok(Changed::Count(old.len() as u64))
}

fn read(write: &WriteTransaction, id: &str) -> Result<Option<Record>, StoreError> {
    let records = write.open_table(RECORDS).map_err(failed("read"))?;
    let record = records.get(id).map_err(failed("read"))?;
    record.map(|record| decode(record.value())).transpose()
}

#[cfg(test)]
#[path = "store_tests.rs"]
mod tests;
