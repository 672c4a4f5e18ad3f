//! A file that is on the client's machine: the statement asks for it, the front end brings it part by part.
//!
//! At most [`PARTS_MAX`] parts wait to be read, so that a client that is faster than the statement waits too.

use std::fmt;

use parking_lot::Mutex;
use sheaf_common::{ErrorCode, WireError};
use tokio::sync::{mpsc, oneshot};

const PARTS_MAX: usize = 4;

/// What a front end brings.
#[derive(Debug)]
pub enum Part {
    Bytes(Vec<u8>),
    /// The file was read to its end. Without it the file is not whole, and nothing of it is kept.
    End,
}

/// The statement's end.
pub struct Upload(Mutex<Option<(oneshot::Sender<String>, mpsc::Receiver<Part>)>>);

/// The front end's.
#[derive(Debug)]
pub struct Uploader {
    /// The name of the file that the client is to be asked for.
    pub wanted: oneshot::Receiver<String>,
    pub parts: mpsc::Sender<Part>,
}

/// Both ends of one upload.
pub fn upload() -> (Upload, Uploader) {
    let (want, wanted) = oneshot::channel();
    let (sender, receiver) = mpsc::channel(PARTS_MAX);
    (Upload(Mutex::new(Some((want, receiver)))), Uploader { wanted, parts: sender })
}

impl Upload {
    /// Asks for a file. None if one was asked for before, or if nobody is there to bring it.
    pub(crate) fn begin(&self, file: &str) -> Option<Parts> {
        let (want, parts) = self.0.lock().take()?;
        want.send(file.to_owned()).ok()?;
        Some(Parts(parts))
    }
}

impl fmt::Debug for Upload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Upload")
    }
}

/// A file on its way.
#[derive(Debug)]
pub(crate) struct Parts(mpsc::Receiver<Part>);

impl Parts {
    /// The next bytes; none at the end of the file.
    ///
    /// Errs when the client left before that.
    pub async fn next(&mut self) -> Result<Option<Vec<u8>>, WireError> {
        match self.0.recv().await {
            Some(Part::Bytes(bytes)) => Ok(Some(bytes)),
            Some(Part::End) => Ok(None),
            None => Err(WireError::new(ErrorCode::Cancelled, "the client left before its file was sent")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_file_without_an_end_is_an_error() {
        let (upload, mut uploader) = upload();
        let mut parts = upload.begin("f").unwrap();
        assert!(upload.begin("f").is_none());
        assert_eq!(uploader.wanted.try_recv().unwrap(), "f");
        uploader.parts.send(Part::Bytes(vec![1])).await.unwrap();
        assert_eq!(parts.next().await, Ok(Some(vec![1])));
        drop(uploader);
        assert_eq!(parts.next().await.unwrap_err().code, ErrorCode::Cancelled);
        let (upload, uploader) = super::upload();
        let mut parts = upload.begin("f").unwrap();
        uploader.parts.send(Part::End).await.unwrap();
        assert_eq!(parts.next().await, Ok(None));
    }
}
