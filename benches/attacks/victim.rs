//! Honest users: each connects, asks and is answered, so many a second, however long the ones before it take.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

use super::origin::ECHO;

const USERS_PER_SECOND: u32 = 50;
/// How long a user waits before it is lost.
const PATIENCE: Duration = Duration::from_secs(10);
/// Longest time that is told apart, in microseconds.
const TIME_MAX_US: u64 = 60_000_000;
/// How long a client may take to serve.
const AWAY_MAX: Duration = Duration::from_secs(60);
const REQUEST: [u8; 64] = [ECHO; 64];

/// What users have met.
pub struct Users {
    /// In microseconds, from connect to the answer's last byte.
    times: Histogram<u64>,
    lost: usize,
}

impl Users {
    /// Users that come for so long.
    pub fn come(to: SocketAddr, time: Duration) -> Users {
        let (sender, served) = mpsc::channel();
        let began = Instant::now();
        let count = (time.as_secs_f64() * f64::from(USERS_PER_SECOND)) as u32;
        thread::scope(|scope| {
            for number in 0..count {
                let due = began + Duration::from_secs(1) * number / USERS_PER_SECOND;
                thread::sleep(due.saturating_duration_since(Instant::now()));
                let sender = sender.clone();
                scope.spawn(move || sender.send(ask(to)));
            }
        });
        drop(sender);
        let mut users = Users {
            times: Histogram::new_with_bounds(1, TIME_MAX_US, 3).expect("bounds that are constants and good"),
            lost: 0,
        };
        for outcome in served {
            match outcome {
                Ok(time) => users.times.saturating_record(time.as_micros() as u64),
                Err(_) => users.lost += 1,
            }
        }
        users
    }

    /// Median and 99th percentile, in milliseconds.
    pub fn times(&self) -> String {
        let at = |percent| self.times.value_at_percentile(percent) as f64 / 1e3;
        format!("{:.1}, {:.1}", at(50.0), at(99.0))
    }

    /// How many were not served, and of how many.
    pub fn lost(&self) -> String {
        format!("{} of {}", self.lost, self.lost + self.times.len() as usize)
    }
}

fn ask(to: SocketAddr) -> io::Result<Duration> {
    let began = Instant::now();
    let mut user = TcpStream::connect_timeout(&to, PATIENCE)?;
    user.set_read_timeout(Some(PATIENCE))?;
    user.write_all(&REQUEST)?;
    let mut answer = [0; REQUEST.len()];
    user.read_exact(&mut answer)?;
    if answer == REQUEST { Ok(began.elapsed()) } else { Err(io::Error::other("another answer")) }
}

/// Waits until a user is served; returns how long that took.
pub fn serves(to: SocketAddr) -> io::Result<Duration> {
    let began = Instant::now();
    loop {
        match ask(to) {
            Ok(_) => return Ok(began.elapsed()),
            Err(error) if began.elapsed() > AWAY_MAX => return Err(error),
            Err(_) => thread::sleep(Duration::from_millis(5)),
        }
    }
}
