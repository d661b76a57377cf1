//! Another configuration while the process runs: read again at SIGHUP, compared, and handed to the machine.
//!
//! Reading may wait for a disk, so that a thread does it, and the loop goes on. Everything or nothing: on any fault the
//! running configuration stays. A SIGHUP that comes meanwhile is answered by reading once more. Reading that takes long
//! is told of as a reload that was refused, until it ends.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use log::{Level, LevelFilter, warn};

use super::descriptors::{fit_descriptors, fit_server};
use super::journal::{self, Format, Place};
use super::ready_file;
use super::status::exchange::{Door, Doors};
use super::status::socket::SocketFile;
use super::status::ways::{WayError, Ways};
use crate::base::mailbox::Mailbox;
use crate::base::sorted::by_rank;
use crate::config::client_difference::ClientDifference;
use crate::config::fault::{Fault, Faults, without_whole_secrets};
use crate::config::file::Running;
use crate::config::source::Places;
use crate::config::{ClientConfig, ServerConfig};
use crate::machine::{CannotListen, Configuration, Fact, Input, ReloadFault};
use crate::reactor::world::thread;

/// Reading that takes longer is told of: a disk may hang.
const LATE: Duration = Duration::from_secs(2);

/// A parser of a file may go deep.
const STACK_BYTES: usize = 1024 * 1024;

/// A configuration that can take the place of another while its machine runs.
pub trait Reloadable: Send + Sync + 'static {
    /// What the machine is told, so that the other one takes the place of this one; people are told the source.
    fn changes_to(&self, new: &Arc<Self>, source: &Arc<str>) -> Configuration;
    /// Lowers its limits to what the system allows.
    fn fit(&mut self);
}

impl Reloadable for ServerConfig {
    fn changes_to(&self, new: &Arc<ServerConfig>, source: &Arc<str>) -> Configuration {
        Configuration::Server { config: new.clone(), source: source.clone(), wall: SystemTime::now() }
    }

    fn fit(&mut self) {
        if let Some(shortage) = fit_server(self) {
            warn!("{shortage}");
        }
    }
}

impl Reloadable for ClientConfig {
    fn changes_to(&self, new: &Arc<ClientConfig>, source: &Arc<str>) -> Configuration {
        let difference = Box::new(ClientDifference::of(self, new));
        Configuration::Client { source: source.clone(), difference }
    }

    fn fit(&mut self) {
        fit_descriptors(&mut self.limits, 0);
    }
}

/// What was read.
pub struct Reread<C> {
    /// The configuration.
    pub config: C,
    /// How much is logged.
    pub level: LevelFilter,
    /// How a line looks.
    pub format: Format,
    /// Where those who look come in; none where nobody may.
    pub ways: Option<Ways>,
    /// What is said of all this, and of the files that are written.
    pub running: Running,
    /// Where a file says it.
    pub places: Places,
}

/// Why a configuration does not hold.
#[derive(Clone, Debug)]
pub struct Refusal {
    /// The place of the first fault, what it is, and how many more there are.
    pub line: String,
    /// All of them.
    pub faults: Arc<[String]>,
}

impl From<String> for Refusal {
    fn from(line: String) -> Refusal {
        let line = without_whole_secrets(&line);
        Refusal { faults: [line.clone()].into(), line }
    }
}

impl From<Faults> for Refusal {
    fn from(faults: Faults) -> Refusal {
        let line = faults.in_one_line();
        Refusal { line, faults: faults.to_string().lines().map(str::to_owned).collect() }
    }
}

impl Refusal {
    /// The machine has refused what was read. The faults are put in the order of their places, and the source is named
    /// with the first of them.
    #[cold]
    fn by_machine(places: &Places, source: &mut Arc<str>, fault: &mut ReloadFault) -> Refusal {
        let ReloadFault::Listen(all) = fault else { return format!("{source}: {fault}").into() };
        let file = source.clone();
        let mut faults = Faults::default();
        let place = |it: &CannotListen| places.listen(it.service.as_ref());
        *all = by_rank(std::mem::take(all), |it| place(it).rank()).collect();
        for it in all {
            let place = place(it);
            faults.push(Fault { file: file.clone(), place, what: it.to_string() });
        }
        if let Some(first) = faults.told().first() {
            *source = format!("{file}:{}", first.place).into();
        }
        faults.into()
    }

    /// What these options want cannot be had. They are put in the order of their places; those of flags come first.
    #[cold]
    fn of_options(places: &Places, mut lacking: Vec<(&'static str, String)>) -> Refusal {
        lacking.sort_by_key(|it| places.of_option(it.0));
        let told =
            lacking.into_iter().map(|(option, what)| without_whole_secrets(&places.told(option, what)));
        let faults: Arc<[String]> = told.collect();
        let mut line = faults.first().cloned().unwrap_or_default();
        if faults.len() > 1 {
            line += &format!(", and {} more", faults.len() - 1);
        }
        Refusal { line, faults }
    }
}

/// Reads the configuration that is to take the place of the one that runs.
pub type Reader<C> = Box<dyn FnMut(&C) -> Result<Reread<C>, Refusal> + Send>;

/// What holds once the machine has it.
struct Next<C> {
    config: Arc<C>,
    changes: Configuration,
    rest: Rest,
}

type Outcome<C> = Result<Next<C>, Refusal>;

/// A file that was made for a configuration, and goes with this value unless that one holds.
struct Made(Option<PathBuf>);

impl Made {
    /// The configuration holds.
    fn keep(mut self) {
        self.0 = None;
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        if let Some(path) = &self.0
            && fs::symlink_metadata(path).is_ok_and(|found| found.is_file() && found.len() == 0)
        {
            // What cannot be removed stays, empty as it is.
            let _ = fs::remove_file(path);
        }
    }
}

/// What holds beside the machine's.
struct Rest {
    log: Place,
    made: Made,
    level: LevelFilter,
    format: Format,
    ways: Option<Ways>,
    news: News,
    running: Running,
    places: Places,
}

/// What those are to know who hear the facts beside the log.
pub struct News {
    /// Ways in that were opened for those who look.
    pub opened: Opened,
    /// Where the ready file is from now on.
    pub ready_file: Option<PathBuf>,
}

/// Ways in that were opened for those who look.
pub type Opened = (Doors, Option<SocketFile>);

/// How far a reload has come.
enum Stage<C> {
    /// None runs.
    Rest,
    /// A thread reads.
    Reading {
        /// When that is late, once it was settled.
        late_at: Option<Instant>,
        /// Whether it was told to be.
        is_late: bool,
    },
    /// The machine has been told.
    Told { config: Arc<C>, rest: Box<Rest> },
}

/// Reloads of one process.
pub struct Reload<C> {
    /// What is read: the file, or `keys`.
    source: Arc<str>,
    running: Arc<C>,
    /// What is said that is not the machine's business.
    said: Running,
    /// How those who look come in.
    ways: Option<Ways>,
    /// One thread at a time has it.
    reader: Arc<Mutex<Reader<C>>>,
    stage: Stage<C>,
    /// It was asked for while one ran.
    again: bool,
    /// Why the last one was refused, if it was.
    refused: Option<Refusal>,
    /// What came with the last one that held, until it is taken.
    news: Option<News>,
    /// What was read, until it is taken.
    outcome: Arc<Mailbox<Option<Outcome<C>>>>,
    wake: Arc<dyn Fn() + Send + Sync>,
}

impl<C: Reloadable> Reload<C> {
    /// Reloads of this source, by this reader. `wake` ends the loop's sleep.
    pub fn new(
        source: Arc<str>,
        (running, said): (C, Running),
        ways: Option<Ways>,
        reader: Reader<C>,
        wake: impl Fn() + Send + Sync + 'static,
    ) -> Reload<C> {
        let (running, reader) = (Arc::new(running), Arc::new(Mutex::new(reader)));
        let wake = Arc::new(wake);
        Reload {
            source,
            running,
            said,
            ways,
            reader,
            stage: Stage::Rest,
            again: false,
            refused: None,
            news: None,
            outcome: Arc::default(),
            wake,
        }
    }

    /// Whether none runs, or nobody knows when it ends.
    pub fn is_at_rest(&self) -> bool {
        matches!(self.stage, Stage::Rest | Stage::Reading { is_late: true, .. })
    }

    /// Why the last one was refused, if it was.
    pub fn refused(&self) -> Option<&Refusal> {
        self.refused.as_ref()
    }

    /// What came with the last one that held, once.
    pub fn take_news(&mut self) -> Option<News> {
        self.news.take()
    }

    /// It is asked for.
    pub fn begin(&mut self) {
        if let Stage::Reading { .. } = self.stage {
            warn!("{}: what was to be read before is still being read", self.source);
        }
        let Stage::Rest = self.stage else { return self.again = true };
        let (running, reader) = (self.running.clone(), self.reader.clone());
        let (outcome, wake, source) = (self.outcome.clone(), self.wake.clone(), self.source.clone());
        let (ways, log_file) = (self.ways.clone(), self.said.log_file.clone());
        let read = move || {
            // Whatever becomes of the rest: the old file may have been moved away.
            if let Some(Ok(place)) = log_file.as_deref().map(Place::file) {
                journal::go_on_in(place);
            }
            let reread = reader.lock().unwrap_or_else(PoisonError::into_inner)(&running);
            let read = reread.and_then(|reread| compare(&*running, ways.as_ref(), reread, &source));
            outcome.leave(|outcome| *outcome = Some(read));
            wake();
        };
        match thread::start("reload", STACK_BYTES, read) {
            Ok(_) => self.stage = Stage::Reading { late_at: None, is_late: false },
            Err(error) => self.refuse(format!("{}: no thread: {error}", self.source).into()),
        }
    }

    /// When it has to be settled, if nothing was read before.
    pub fn due(&self) -> Option<Instant> {
        match self.stage {
            Stage::Reading { late_at, is_late: false } => late_at,
            _ => None,
        }
    }

    /// Tells, once, that reading takes long. It comes at the end of each turn.
    pub fn settle(&mut self, now: Instant) {
        let Stage::Reading { late_at, is_late: is_late @ false } = &mut self.stage else { return };
        if now >= *late_at.get_or_insert(now + LATE) {
            *is_late = true;
            let seconds = LATE.as_secs();
            self.refuse(format!("{}: the files were not read within {seconds} s", self.source).into());
        }
    }

    /// What the machine is to be told, if anything was read.
    pub fn poll(&mut self) -> Option<Input> {
        match self.outcome.take()? {
            Ok(Next { config, changes, rest }) => {
                self.stage = Stage::Told { config, rest: Box::new(rest) };
                Some(Input::Configure(Box::new(changes)))
            }
            Err(why) => {
                self.refuse(why);
                self.rest();
                None
            }
        }
    }

    /// Takes a fact into account: the machine has answered. It is told what has changed beside.
    pub fn take(&mut self, fact: &mut Fact) {
        if let Stage::Told { rest, .. } = &self.stage {
            match fact {
                Fact::Reloaded { difference, .. } => {
                    difference.options.extend(self.said.changed_in(&rest.running));
                }
                Fact::ClientReloaded { difference, .. } => {
                    difference.options.extend(self.said.changed_in(&rest.running));
                }
                _ => {}
            }
        }
        self.refused = match fact {
            Fact::ClientReloaded { .. } | Fact::Reloaded { .. } => None,
            Fact::ReloadRefused { source, fault } => Some(match &self.stage {
                Stage::Told { rest, .. } => Refusal::by_machine(&rest.places, source, fault),
                _ => format!("{source}: {fault}").into(),
            }),
            _ => return,
        };
        if let Stage::Told { config, rest } = std::mem::replace(&mut self.stage, Stage::Rest) {
            if self.refused.is_none() {
                let Rest { log, made, level, format, ways, news, running, places: _ } = *rest;
                made.keep();
                (self.running, self.said, self.ways, self.news) = (config, running, ways, Some(news));
                journal::go_on_in(log);
                log::set_max_level(level);
                journal::set_format(format);
            }
            self.rest();
        }
    }

    fn refuse(&mut self, why: Refusal) {
        let sentence = format_args!("refused {}; the running configuration stays", why.line);
        journal::tell(Level::Error, sentence, "reload refused", &|json| {
            json.key("reason").text(&why.line);
        });
        self.refused = Some(why);
    }

    fn rest(&mut self) {
        self.stage = Stage::Rest;
        if std::mem::take(&mut self.again) {
            self.begin();
        }
    }
}

/// Looks whether what was read may take the place of what runs.
fn compare<C: Reloadable>(
    running: &C,
    open: Option<&Ways>,
    reread: Reread<C>,
    source: &Arc<str>,
) -> Result<Next<C>, Refusal> {
    let Reread { mut config, level, format, ways, running: said, places } = reread;
    config.fit();
    let mut lacking = Vec::new();
    let log = said.log_file.as_deref().map_or(Ok((Place::StandardError, Made(None))), open_log);
    let log = log.map_err(|what| lacking.push(("log-file", what)));
    if let Some(Err(what)) = said.ready_file.as_deref().map(ready_file::claim) {
        lacking.push(("ready-file", what));
    }
    let mut lacks = |error: WayError| lacking.push((error.option(), error.to_string()));
    let metrics = ways.as_ref().map_or(Ok(Door::Same), |it| it.open_metrics(open, None)).map_err(&mut lacks);
    let socket = ways.as_ref().map_or(Ok((Door::Same, None)), |it| it.open_socket(open)).map_err(lacks);
    let (Ok((log, made)), Ok(metrics), Ok((socket, file)), true) = (log, metrics, socket, lacking.is_empty())
    else {
        return Err(Refusal::of_options(&places, lacking));
    };
    let config = Arc::new(config);
    let changes = running.changes_to(&config, source);
    let news = News { opened: (Doors { socket, metrics }, file), ready_file: said.ready_file.clone() };
    Ok(Next { config, changes, rest: Rest { log, made, level, format, ways, news, running: said, places } })
}

/// Opens a log file, and says whether it was made.
fn open_log(path: &Path) -> Result<(Place, Made), String> {
    let is_new = fs::symlink_metadata(path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
    match Place::file(path) {
        Ok(place) => Ok((place, Made(is_new.then(|| path.to_owned())))),
        Err(error) => Err(format!("{}: the log file cannot be opened: {error}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::mpsc::{Receiver, channel};

    /// A configuration of one number.
    struct Number(u32);

    impl Reloadable for Number {
        fn changes_to(&self, _: &Arc<Number>, source: &Arc<str>) -> Configuration {
            Configuration::Client { source: source.clone(), difference: Box::default() }
        }

        fn fit(&mut self) {}
    }

    /// Reloads that read these numbers one after the other, and wakes.
    fn reload(numbers: &'static [u32]) -> (Reload<Number>, Receiver<()>) {
        let (woken, wakes) = channel();
        let woken = Mutex::new(woken);
        let wake = move || drop(woken.lock().map(|woken| woken.send(())));
        let mut numbers = numbers.iter();
        let reader = move |_: &Number| match numbers.next() {
            None | Some(13) => Err("file:1:1: nothing".to_owned().into()),
            Some(&number) => Ok(Reread {
                config: Number(number),
                level: LevelFilter::Info,
                format: Format::Text,
                ways: None,
                running: Running { status: Some(number.to_string().into()), ..Running::default() },
                places: Places::default(),
            }),
        };
        (Reload::new("file".into(), (Number(0), Running::default()), None, Box::new(reader), wake), wakes)
    }

    fn holds() -> Fact {
        Fact::ClientReloaded { source: "file".into(), difference: Box::default() }
    }

    fn woken(wakes: &Receiver<()>) {
        wakes.recv_timeout(Duration::from_secs(60)).expect("it is read");
    }

    #[test]
    fn what_was_read_goes_to_the_machine_and_holds_once_that_says_so() {
        let (mut reload, wakes) = reload(&[1, 2]);
        assert!(reload.poll().is_none());
        for number in [1, 2] {
            reload.begin();
            woken(&wakes);
            assert!(matches!(reload.poll(), Some(Input::Configure(_))));
            assert_eq!(reload.running.0, number - 1);
            let mut fact = holds();
            reload.take(&mut fact);
            assert_eq!(fact.to_string(), "reloaded file: status changed");
            assert_eq!(reload.running.0, number);
            assert!(matches!(reload.stage, Stage::Rest));
        }
    }

    #[test]
    fn what_is_refused_leaves_what_runs_and_may_be_read_again() {
        let (mut reload, wakes) = reload(&[13]);
        for _ in 0..2 {
            reload.begin();
            woken(&wakes);
            assert!(reload.poll().is_none());
            assert!(reload.running.0 == 0 && matches!(reload.stage, Stage::Rest));
        }
    }

    #[test]
    fn reading_that_takes_long_is_told_of_once_and_then_holds_all_the_same() {
        let (go_on, waits) = channel();
        let (mut reload, wakes) = reload(&[1, 2]);
        let reader = std::mem::replace(
            &mut *reload.reader.lock().expect("ours"),
            Box::new(|_| Err("".to_owned().into())),
        );
        let (reader, waits) = (Mutex::new(reader), Mutex::new(waits));
        reload.reader = Arc::new(Mutex::new(Box::new(move |number: &Number| {
            waits.lock().expect("ours").recv().expect("it may go on");
            reader.lock().expect("ours")(number)
        })));
        reload.begin();
        reload.settle(Instant::now());
        let due = reload.due().expect("it reads");
        reload.settle(due - Duration::from_millis(1));
        assert!(reload.refused().is_none() && !reload.is_at_rest());
        reload.settle(due);
        let refused = reload.refused().expect("it is late").clone();
        assert_eq!(refused.line, "file: the files were not read within 2 s");
        assert!(reload.due().is_none() && reload.is_at_rest());
        reload.settle(due + LATE);
        assert!(
            Arc::ptr_eq(&reload.refused().expect("as before").faults, &refused.faults),
            "it is told once"
        );
        // It is done after that one.
        reload.begin();
        for number in [1, 2] {
            go_on.send(()).expect("it waits");
            woken(&wakes);
            assert!(reload.poll().is_some());
            reload.take(&mut holds());
            assert!(reload.running.0 == number && reload.refused().is_none());
        }
    }

    #[test]
    fn what_is_asked_for_meanwhile_is_read_once_more() {
        let (mut reload, wakes) = reload(&[1, 2]);
        (0..3).for_each(|_| reload.begin());
        woken(&wakes);
        assert!(reload.poll().is_some());
        reload.begin();
        reload.take(&mut holds());
        woken(&wakes);
        assert!(reload.poll().is_some());
        reload.take(&mut holds());
        assert!(reload.running.0 == 2 && matches!(reload.stage, Stage::Rest));
    }
}
