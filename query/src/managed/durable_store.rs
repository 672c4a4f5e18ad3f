//! The local disk as an object store whose writes are on the disk when they are acknowledged.
//!
//! `object_store`'s own leaves what it wrote in the kernel's cache: a power cut after an acknowledged commit would lose
//! it, or keep the log entry and lose the data that it names. Here the bytes of a file are flushed before its name
//! appears, and its folder, with all folders that were made for it, afterwards.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path as FsPath, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use datafusion::common::runtime::SpawnedTask;
use futures::stream::BoxStream;
use object_store::local::LocalFileSystem;
use object_store::path::Path;
use object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use uuid::Uuid;

const STORE: &str = "local disk";

/// The whole file system, under absolute paths.
#[derive(Debug, Clone)]
pub struct DurableStore {
    inner: Arc<LocalFileSystem>,
}

impl Default for DurableStore {
    fn default() -> Self {
        Self { inner: Arc::new(LocalFileSystem::new()) }
    }
}

impl fmt::Display for DurableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(STORE)
    }
}

impl DurableStore {
    fn path(&self, location: &Path) -> Result<PathBuf> {
        self.inner.path_to_filesystem(location)
    }
}

/// The store's error for one of the disk's, with the path.
fn failed(path: &FsPath, source: io::Error) -> Error {
    let shown = path.display().to_string();
    match source.kind() {
        ErrorKind::AlreadyExists => Error::AlreadyExists { path: shown, source: Box::new(source) },
        ErrorKind::NotFound => Error::NotFound { path: shown, source: Box::new(source) },
        ErrorKind::PermissionDenied => Error::PermissionDenied { path: shown, source: Box::new(source) },
        // The kind stays, so that a full disk is told apart; the path goes into the text.
        kind => Error::Generic { store: STORE, source: Box::new(io::Error::new(kind, format!("'{shown}': {source}"))) },
    }
}

/// Runs `work` where waiting for the disk holds nobody up.
async fn on_disk<T: Send + 'static>(
    path: PathBuf,
    work: impl FnOnce(&FsPath) -> io::Result<T> + Send + 'static,
) -> Result<T> {
    let shown = path.clone();
    match SpawnedTask::spawn_blocking(move || work(&path)).join().await {
        Ok(done) => done.map_err(|error| failed(&shown, error)),
        Err(error) => Err(Error::Generic { store: STORE, source: Box::new(error) }),
    }
}

/// Flushes a folder: the names in it.
fn flush_folder(path: &FsPath) -> io::Result<()> {
    File::open(path)?.sync_all()
}

/// Makes a folder and those above it that are missing; each new name is flushed.
fn make_folders(path: &FsPath) -> io::Result<()> {
    if path.is_dir() {
        return Ok(());
    }
    let Some(parent) = path.parent() else { return Ok(()) };
    make_folders(parent)?;
    match fs::create_dir(path) {
        Err(error) if error.kind() != ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    flush_folder(parent)
}

/// Writes a file under a name that nobody looks for, flushed.
fn stage(folder: &FsPath, payload: &PutPayload) -> io::Result<PathBuf> {
    make_folders(folder)?;
    // What `object_store` takes for an upload that is not complete, and does not list.
    let staged = folder.join(format!("{}#1", Uuid::new_v4().simple()));
    let written = || {
        let mut file = OpenOptions::new().write(true).create_new(true).open(&staged)?;
        for bytes in payload.iter() {
            file.write_all(bytes)?;
        }
        file.sync_all()
    };
    written().inspect_err(|_| {
        let _ = fs::remove_file(&staged);
    })?;
    Ok(staged)
}

fn put(path: &FsPath, payload: &PutPayload, mode: &PutMode) -> io::Result<()> {
    let folder = path.parent().unwrap_or(FsPath::new("/"));
    let staged = stage(folder, payload)?;
    let named = match mode {
        PutMode::Create => {
            let linked = fs::hard_link(&staged, path);
            let _ = fs::remove_file(&staged);
            linked
        }
        PutMode::Overwrite | PutMode::Update(_) => fs::rename(&staged, path).inspect_err(|_| {
            let _ = fs::remove_file(&staged);
        }),
    };
    named?;
    flush_folder(folder)
}

#[async_trait]
impl ObjectStore for DurableStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        if matches!(options.mode, PutMode::Update(_)) {
            return Err(Error::NotImplemented { operation: "a conditional put".into(), implementer: STORE.into() });
        }
        let path = self.path(location)?;
        on_disk(path, move |path| put(path, &payload, &options.mode)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn put_multipart_opts(
        &self,
        location: &Path,
        options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        let path = self.path(location)?;
        let folder = path.parent().unwrap_or(FsPath::new("/")).to_owned();
        on_disk(folder, make_folders).await?;
        let inner = self.inner.put_multipart_opts(location, options).await?;
        Ok(Box::new(DurableUpload { inner, path }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        on_disk(self.path(to)?, flush).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        on_disk(self.path(to)?, flush).await
    }
}

/// Flushes a file that has its name already, and its folder.
fn flush(path: &FsPath) -> io::Result<()> {
    File::open(path)?.sync_all()?;
    flush_folder(path.parent().unwrap_or(FsPath::new("/")))
}

/// A file that is written in parts. It is nobody's before [`MultipartUpload::complete`] returns, so that its name may
/// come before its bytes are flushed.
#[derive(Debug)]
struct DurableUpload {
    inner: Box<dyn MultipartUpload>,
    path: PathBuf,
}

#[async_trait]
impl MultipartUpload for DurableUpload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.inner.put_part(data)
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let result = self.inner.complete().await?;
        on_disk(self.path.clone(), flush).await?;
        Ok(result)
    }

    async fn abort(&mut self) -> Result<()> {
        self.inner.abort().await
    }
}

#[cfg(test)]
mod tests {
    use object_store::ObjectStoreExt;

    use super::*;

    fn at(folder: &tempfile::TempDir, name: &str) -> Path {
        Path::from_absolute_path(folder.path().join(name)).unwrap()
    }

    #[tokio::test]
    async fn a_name_is_given_once() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableStore::default();
        let path = at(&folder, "a/b/1.json");
        let create = || PutOptions::from(PutMode::Create);
        store.put_opts(&path, "one".into(), create()).await.unwrap();
        let second = store.put_opts(&path, "two".into(), create()).await;
        assert!(matches!(second, Err(Error::AlreadyExists { .. })), "{second:?}");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "one");
        store.put(&path, "three".into()).await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "three");
        let names: Vec<_> =
            fs::read_dir(folder.path().join("a/b")).unwrap().map(|it| it.unwrap().file_name()).collect();
        assert_eq!(names, ["1.json"], "nothing is left of what was staged");
    }

    #[tokio::test]
    async fn a_file_in_parts_is_there_when_complete() {
        let folder = tempfile::tempdir().unwrap();
        let store = DurableStore::default();
        let path = at(&folder, "x/y.parquet");
        let mut upload = store.put_multipart(&path).await.unwrap();
        upload.put_part("ab".into()).await.unwrap();
        assert!(store.head(&path).await.is_err());
        upload.put_part("c".into()).await.unwrap();
        upload.complete().await.unwrap();
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "abc");
        let mut given_up = store.put_multipart(&at(&folder, "x/z")).await.unwrap();
        given_up.put_part("ab".into()).await.unwrap();
        given_up.abort().await.unwrap();
        assert_eq!(fs::read_dir(folder.path().join("x")).unwrap().count(), 1);
    }

    #[tokio::test]
    async fn errors_name_the_path_and_keep_their_kind() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("file"), "").unwrap();
        let error = DurableStore::default().put(&at(&folder, "file/below"), "x".into()).await.unwrap_err();
        assert!(error.to_string().contains("file"), "{error}");
    }
}
