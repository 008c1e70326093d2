//! Opening a database file: one process, the right kind, the right chain, a schema we know, nothing damaged.

use std::{
    fs::{self, File, OpenOptions, TryLockError},
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use sqlx::{
    AssertSqlSafe, Connection, Row, Sqlite, SqliteConnection, SqlitePool, Transaction,
    migrate::{MigrateError, Migrator},
    sqlite::{SqliteConnectOptions, SqliteJournalMode, SqlitePoolOptions, SqliteSynchronous},
};

use crate::{Error, Result, error::is_damage, value::Reader};

/// How long a statement waits for another connection of this process. Transactions here take milliseconds.
const BUSY_TIMEOUT: Duration = Duration::from_secs(10);

/// One kind of database file.
pub(crate) struct Kind {
    /// Name in messages.
    pub(crate) name: &'static str,
    /// SQLite's `application_id`: four letters in the file's header.
    pub(crate) application_id: i32,
    /// The schema.
    pub(crate) migrator: &'static Migrator,
    /// When a commit is on disk.
    pub(crate) synchronous: SqliteSynchronous,
    /// Pages that the writing connection keeps in memory, KiB: indexes over hashes are written all over the file.
    pub(crate) cache_kib: u32,
    /// Pages in the write-ahead log from which it is copied back; more pages are copied once instead of many times.
    pub(crate) checkpoint_pages: u32,
    /// Connections that only read, beside the one that writes.
    pub(crate) readers: u32,
    /// Whether every page is checked at opening.
    pub(crate) check_whole: bool,
    /// What it costs to delete the file.
    pub(crate) consequence: &'static str,
}

/// What a file belongs to, by name: it never serves another chain.
pub(crate) type Binding = Vec<(&'static str, String)>;

/// An open database: one connection that writes, some that read, and the lock that keeps other processes out.
#[derive(Debug)]
pub(crate) struct Database {
    writer: SqlitePool,
    readers: SqlitePool,
    path: PathBuf,
    /// Held until the process ends or this is dropped; the kernel releases it even after kill -9.
    _lock: File,
}

impl Database {
    /// Opens or creates the file.
    pub(crate) async fn open(path: &Path, kind: &Kind, binding: &Binding) -> Result<Self> {
        let path = absolute(path)?;
        let lock = lock(&path)?;
        if exists(&path)? {
            check_header(&path, kind)?;
        } else {
            refuse_if_orphaned(&path, kind)?;
            create(&path, kind, binding).await?;
        }
        let options = options(&path, kind);
        let writer = SqlitePoolOptions::new()
            .max_connections(1)
            .connect_with(
                options
                    .clone()
                    .pragma("cache_size", format!("-{}", kind.cache_kib))
                    .pragma("wal_autocheckpoint", kind.checkpoint_pages.to_string()),
            )
            .await
            .map_err(|source| damage_or(&path, kind, "opening the file", source))?;
        migrate(&writer, &path, kind).await?;
        if kind.check_whole {
            check_whole(&writer, &path, kind).await?;
        }
        check_binding(&writer, &path, binding).await?;
        let readers = SqlitePoolOptions::new()
            .max_connections(kind.readers)
            .connect_with(options.read_only(true))
            .await
            .map_err(Error::sql("opening the file for reading"))?;
        Ok(Self { writer, readers, path, _lock: lock })
    }

    /// The file.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Connections that read; each statement sees one committed state.
    pub(crate) fn readers(&self) -> &SqlitePool {
        &self.readers
    }

    /// Begins the one transaction that may write. Dropped without a commit, it changes nothing.
    pub(crate) async fn begin(&self) -> Result<Transaction<'static, Sqlite>> {
        self.writer.begin_with("BEGIN IMMEDIATE").await.map_err(Error::sql("beginning a transaction"))
    }

    /// A read transaction: all its statements see the same committed state.
    pub(crate) async fn snapshot(&self) -> Result<Transaction<'static, Sqlite>> {
        self.readers.begin().await.map_err(Error::sql("beginning to read"))
    }

    /// Writes everything back into the one file and closes it.
    pub(crate) async fn close(self) {
        self.readers.close().await;
        self.writer.close().await;
    }
}

/// Now, in Unix milliseconds; for journals and logs, never for anything that two machines compare.
pub(crate) fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    let io = |doing| move |source| Error::Io { doing, path: path.to_owned(), source };
    let name = path.file_name().ok_or(std::io::ErrorKind::InvalidInput.into()).map_err(io("finding the file name in"))?;
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    fs::create_dir_all(folder).map_err(io("creating the folder of"))?;
    // Two names of one file must meet the same lock.
    let folder = folder.canonicalize().map_err(io("resolving the folder of"))?;
    let path = folder.join(name);
    Ok(path.canonicalize().unwrap_or(path))
}

fn beside(path: &Path, suffix: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(suffix);
    PathBuf::from(name)
}

fn exists(path: &Path) -> Result<bool> {
    path.try_exists().map_err(|source| Error::Io { doing: "looking for", path: path.to_owned(), source })
}

fn lock(path: &Path) -> Result<File> {
    let lock_path = beside(path, ".lock");
    let io = |doing| {
        let path = lock_path.clone();
        move |source| Error::Io { doing, path, source }
    };
    let file = OpenOptions::new().create(true).truncate(false).write(true).open(&lock_path).map_err(io("opening"))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(Error::InUse { path: path.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io("locking")(source)),
    }
}

/// Looks at the file's header before SQLite does: SQLite takes an empty file for a new database, so that a journal that was truncated would
/// read as "nothing was ever sent"; and opening another program's database would already change it.
///
/// Source: <https://www.sqlite.org/fileformat.html>, section 1.3.
fn check_header(path: &Path, kind: &Kind) -> Result<()> {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    const APPLICATION_ID: std::ops::Range<usize> = 68..72;
    let mut header = Vec::with_capacity(100);
    File::open(path).and_then(|file| file.take(100).read_to_end(&mut header)).map_err(|source| Error::Io {
        doing: "reading",
        path: path.to_owned(),
        source,
    })?;
    let damaged = |what: &str| Error::Damaged { path: path.to_owned(), what: what.to_owned(), consequence: kind.consequence };
    if header.is_empty() {
        return Err(damaged("the file is empty"));
    }
    if !header.starts_with(MAGIC) {
        return Err(damaged("it does not begin as an SQLite database does"));
    }
    let Some(found) = header.get(APPLICATION_ID) else {
        return Err(damaged("the file is cut off"));
    };
    if found == kind.application_id.to_be_bytes() {
        return Ok(());
    }
    let (expected, path) = (kind.name, path.to_owned());
    Err(Error::NotOurs { path, expected, found: format!("its application id is {found:02x?}"), consequence: kind.consequence })
}

/// A write-ahead log without its database: the database was moved away, and its last commits are in the log.
fn refuse_if_orphaned(path: &Path, kind: &Kind) -> Result<()> {
    let log = beside(path, "-wal");
    if exists(&log)? {
        let what = format!("it is gone, but {} is there with its last changes", log.display());
        return Err(Error::Damaged { path: path.to_owned(), what, consequence: kind.consequence });
    }
    Ok(())
}

fn options(path: &Path, kind: &Kind) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(kind.synchronous)
        .foreign_keys(true)
        .busy_timeout(BUSY_TIMEOUT)
}

/// Builds the file under another name and renames it: under its own name a database is always whole.
async fn create(path: &Path, kind: &Kind, binding: &Binding) -> Result<()> {
    let new = beside(path, ".new");
    let io = |doing| {
        let path = new.clone();
        move |source| Error::Io { doing, path, source }
    };
    for suffix in ["", "-wal", "-shm", "-journal"] {
        let leftover = beside(&new, suffix);
        if exists(&leftover)? {
            fs::remove_file(&leftover).map_err(io("removing the unfinished"))?;
        }
    }
    let options = options(&new, kind).create_if_missing(true).journal_mode(SqliteJournalMode::Delete).synchronous(SqliteSynchronous::Full);
    let doing = "creating the database";
    let mut connection = SqliteConnection::connect_with(&options).await.map_err(Error::sql(doing))?;
    let stamp = format!("PRAGMA application_id = {}", kind.application_id);
    sqlx::query(AssertSqlSafe(stamp)).execute(&mut connection).await.map_err(Error::sql(doing))?;
    kind.migrator.run(&mut connection).await.map_err(|error| migration_error(path, kind, error))?;
    for (name, value) in binding {
        sqlx::query("INSERT INTO binding (name, value) VALUES (?, ?)")
            .bind(name)
            .bind(value)
            .execute(&mut connection)
            .await
            .map_err(Error::sql(doing))?;
    }
    connection.close().await.map_err(Error::sql(doing))?;
    File::open(&new).and_then(|file| file.sync_all()).map_err(io("flushing"))?;
    fs::rename(&new, path).map_err(io("renaming"))?;
    let folder = path.parent().unwrap_or(Path::new("/"));
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(io("flushing the folder of"))
}

fn damage_or(path: &Path, kind: &Kind, doing: &'static str, source: sqlx::Error) -> Error {
    if is_damage(&source) {
        Error::Damaged { path: path.to_owned(), what: source.to_string(), consequence: kind.consequence }
    } else {
        Error::Sql { doing, source }
    }
}

async fn migrate(pool: &SqlitePool, path: &Path, kind: &Kind) -> Result<()> {
    kind.migrator.run(pool).await.map_err(|error| migration_error(path, kind, error))
}

fn migration_error(path: &Path, kind: &Kind, error: MigrateError) -> Error {
    let doing = "bringing the schema up to date";
    match error {
        MigrateError::VersionMissing(found) => {
            let known = kind.migrator.iter().map(|migration| migration.version).max().unwrap_or_default();
            Error::Newer { path: path.to_owned(), found, known }
        }
        MigrateError::VersionMismatch(version) => Error::OtherBuild { path: path.to_owned(), version },
        MigrateError::Execute(source) | MigrateError::ExecuteMigration(source, _) => damage_or(path, kind, doing, source),
        other => Error::Sql { doing, source: sqlx::Error::Migrate(Box::new(other)) },
    }
}

async fn check_whole(pool: &SqlitePool, path: &Path, kind: &Kind) -> Result<()> {
    let answers: Vec<String> = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_all(pool)
        .await
        .map_err(|source| damage_or(path, kind, "checking the file", source))?;
    let strays = sqlx::query("PRAGMA foreign_key_check")
        .fetch_all(pool)
        .await
        .map_err(|source| damage_or(path, kind, "checking the file's references", source))?;
    let what = match (answers.as_slice(), strays.len()) {
        ([ok], 0) if ok == "ok" => return Ok(()),
        ([ok], strays) if ok == "ok" => format!("{strays} rows refer to rows that are gone"),
        (answers, _) => answers.join("; "),
    };
    Err(Error::Damaged { path: path.to_owned(), what, consequence: kind.consequence })
}

async fn check_binding(pool: &SqlitePool, path: &Path, binding: &Binding) -> Result<()> {
    let rows =
        sqlx::query("SELECT name, value FROM binding").fetch_all(pool).await.map_err(Error::sql("reading what the file belongs to"))?;
    for (name, expected) in binding {
        let row = rows.iter().find(|row| row.try_get::<&str, _>("name").is_ok_and(|found| found == *name));
        let Some(row) = row else {
            return Err(Error::bad_value("binding", "name", format!("{name} is missing")));
        };
        let found = Reader::new("binding", row).text("value")?;
        if found != expected {
            return Err(Error::OtherChain {
                path: path.to_owned(),
                name: (*name).to_owned(),
                found: found.to_owned(),
                expected: expected.clone(),
            });
        }
    }
    Ok(())
}
