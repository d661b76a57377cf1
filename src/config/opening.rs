//! Files that are opened without waiting. What stands where a file is wanted may be a pipe that nobody holds the other
//! end of, or a device: opening it in the usual way could take for ever.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::fd::AsFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};
use rustix::time::{ClockId, clock_gettime};

/// How long a pipe or a device may take to give all that is read of it.
const PATIENCE: Duration = Duration::from_secs(2);
/// How long a pipe may have nobody who writes to it.
const WRITER_PATIENCE: Duration = Duration::from_secs(1);

/// A pipe's open(2) does not wait for its other end, and no terminal becomes the process's own.
const FLAGS: OFlags = OFlags::NONBLOCK.union(OFlags::NOCTTY);

/// A file that is read, and no longer than it has patience.
#[derive(Debug)]
pub struct Patient {
    file: File,
    /// When it was opened.
    since: Timespec,
    /// A pipe of which nothing has come so far.
    is_silent_pipe: bool,
}

impl Patient {
    /// Opens a file to read.
    pub fn open(path: &Path) -> io::Result<Patient> {
        let file = OpenOptions::new().read(true).custom_flags(FLAGS.bits() as i32).open(path)?;
        let is_silent_pipe = file.metadata()?.file_type().is_fifo();
        Ok(Patient { file, since: clock_gettime(ClockId::Monotonic), is_silent_pipe })
    }

    /// The open file.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Waits until something can be read, or until nobody writes any more.
    fn wait(&self, patience: Duration, late: &'static str) -> io::Result<()> {
        let took = clock_gettime(ClockId::Monotonic) - self.since;
        let left = patience.saturating_sub(Duration::try_from(took).unwrap_or_default());
        let left = Timespec::try_from(left).map_err(|_| io::ErrorKind::InvalidInput)?;
        match poll(&mut [PollFd::new(&self.file.as_fd(), PollFlags::IN)], Some(&left)) {
            Ok(0) => Err(io::Error::new(io::ErrorKind::TimedOut, late)),
            Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

impl Read for Patient {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            match self.file.read(buffer) {
                Ok(0) if self.is_silent_pipe && !buffer.is_empty() => {
                    // Who waits to write to a named pipe is let in by its opening, and comes a moment later.
                    self.wait(WRITER_PATIENCE, "it is a pipe that nobody writes to")?;
                    self.is_silent_pipe = false;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.wait(PATIENCE, "it is no file, and did not give all that it has within 2 s")?;
                }
                outcome => {
                    self.is_silent_pipe &= !matches!(outcome, Ok(1..));
                    return outcome;
                }
            }
        }
    }
}

/// Opens a file to append to, which is made if it is missing.
pub fn append(path: &Path) -> io::Result<File> {
    let flags = FLAGS.bits() as i32;
    let file =
        OpenOptions::new().append(true).create(true).custom_flags(flags).open(path).map_err(|error| {
            match error.raw_os_error() == Some(rustix::io::Errno::NXIO.raw_os_error()) {
                true => io::Error::new(error.kind(), "it is a pipe that nobody reads, or no device is there"),
                false => error,
            }
        })?;
    if !file.metadata()?.is_file() {
        // It is written by a thread of its own, which may wait.
        fcntl_setfl(&file, fcntl_getfl(&file)?.difference(OFlags::NONBLOCK))?;
    }
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;
    use std::thread;

    /// A named pipe that is gone with this.
    struct Pipe(std::path::PathBuf);

    impl Pipe {
        fn new(name: &str) -> Pipe {
            let path = std::env::temp_dir().join(format!("skyorg-{name}-{}", std::process::id()));
            rustix::fs::mkfifoat(rustix::fs::CWD, &path, rustix::fs::Mode::from_raw_mode(0o600))
                .expect("a new pipe");
            Pipe(path)
        }

        fn read(&self) -> io::Result<String> {
            let mut text = String::new();
            Patient::open(&self.0)?.read_to_string(&mut text).map(|_| text)
        }
    }

    impl Drop for Pipe {
        fn drop(&mut self) {
            let _ = std::fs::remove_file(&self.0);
        }
    }

    #[test]
    fn a_pipe_that_nobody_writes_to_or_reads_is_an_error_and_no_wait() {
        let pipe = Pipe::new("pipe-alone");
        let error = pipe.read().expect_err("nobody writes");
        assert!(error.to_string().contains("nobody writes to"), "{error}");
        let error = append(&pipe.0).expect_err("nobody reads");
        assert!(error.to_string().contains("nobody reads"), "{error}");
    }

    #[test]
    fn a_pipe_with_a_writer_is_read_to_its_end_and_one_that_keeps_silent_is_given_up() {
        let pipe = Pipe::new("pipe-written");
        thread::scope(|scope| {
            scope.spawn(|| {
                let mut writer = OpenOptions::new().write(true).open(&pipe.0).expect("a reader comes");
                writer.write_all(&[b'a'; 200_000]).expect("it is read");
            });
            assert_eq!(pipe.read().expect("it is written").len(), 200_000);
        });
        let silent = OpenOptions::new().read(true).write(true).open(&pipe.0).expect("both ends");
        assert_eq!(pipe.read().expect_err("nothing comes").kind(), io::ErrorKind::TimedOut);
        drop(silent);
    }
}
