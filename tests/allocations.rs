//! Once warm, sessions allocate nothing: neither in the server's reactor nor in the client's.
//!
//! Both run in threads of this process, over real sockets, under an allocator that counts what is asked of it in
//! those two threads and nowhere else. Log level `info`, as an operator has it; every line is formatted into a
//! buffer of fixed size and dropped, so that what is counted is the program's and not a logger's.

mod in_process;

use std::alloc::{GlobalAlloc, Layout, System};
use std::backtrace::Backtrace;
use std::cell::Cell;
use std::io::{Cursor, Read, Write};
use std::net::{Ipv4Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Once;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use in_process::Ends;
use log::{LevelFilter, Log, Metadata, Record};
use skyorg::config::limits::Limits;
use socket2::{Domain, SockRef, Socket, Type};

/// Sessions that are counted; `SKYORG_TEST_SESSIONS` asks for another number.
const SESSIONS: usize = 20_000;
/// Users at once in the bursts that are counted, and in those of the warm-up. The warm-up has more, so that no counted
/// burst needs a longer queue than any before it.
const BURST: usize = 8;
const WARM_BURST: usize = 40;
/// Sessions between two bursts, one after the other.
const BETWEEN_BURSTS: usize = 92;
/// Bytes that a user says, and hears again.
const MESSAGE_BYTES: usize = 64;
/// Longest wait for what must come.
const PATIENCE: Duration = Duration::from_secs(30);

/// What is counted about one reactor thread.
struct Count {
    allocations: AtomicU64,
    /// From now on none is expected, and the first one is shown.
    warm: AtomicBool,
    shown: Once,
}

impl Count {
    const fn new() -> Count {
        Count { allocations: AtomicU64::new(0), warm: AtomicBool::new(false), shown: Once::new() }
    }
}

thread_local! {
    static COUNT: Cell<Option<&'static Count>> = const { Cell::new(None) };
}

/// The system's allocator, and a count.
struct Counting;

fn note(layout: Layout) {
    let Ok(Some(count)) = COUNT.try_with(Cell::get) else { return };
    count.allocations.fetch_add(1, Ordering::Relaxed);
    if !count.warm.load(Ordering::Relaxed) {
        return;
    }
    // Showing allocates; this thread is not counted meanwhile.
    COUNT.set(None);
    count.shown.call_once(|| {
        let name = thread::current().name().unwrap_or_default().to_owned();
        eprintln!("{name}: {} bytes allocated\n{}", layout.size(), Backtrace::force_capture());
    });
    COUNT.set(Some(count));
}

#[allow(unsafe_code)]
// SAFETY: every call goes to `System` with the arguments as they came; `note` unwinds only if printing fails.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        note(layout);
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        note(layout);
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        note(layout);
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Formats every line into a buffer of fixed size, and drops it.
struct Sink;

impl Log for Sink {
    fn enabled(&self, _: &Metadata) -> bool {
        true
    }

    fn log(&self, record: &Record) {
        let mut line = [0; 512];
        write!(Cursor::new(&mut line[..]), "{} {}", record.level(), record.args()).expect("lines are short");
    }

    fn flush(&self) {}
}

/// Which side ends a session, and how. A user says it by its first byte.
#[derive(Clone, Copy)]
#[repr(u8)]
enum Ending {
    UserFirst,
    LocalServerFirst,
    UserAborts,
}

const ENDINGS: [Ending; 3] = [Ending::UserFirst, Ending::LocalServerFirst, Ending::UserAborts];

/// A local server that echoes one message and ends as it is told.
fn start_local_server() -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("binds");
    let address = listener.local_addr().expect("bound");
    // As many as there are sessions at once, or users would wait for each other.
    for _ in 0..2 * WARM_BURST {
        let listener = listener.try_clone().expect("a descriptor");
        thread::spawn(move || {
            loop {
                let (mut stream, _) = listener.accept().expect("a session");
                let mut message = [0; MESSAGE_BYTES];
                let heard = stream.read_exact(&mut message).and_then(|()| stream.write_all(&message));
                if heard.is_ok() && message[0] != Ending::LocalServerFirst as u8 {
                    // The user's end, or its abort.
                    let _ = stream.read(&mut message);
                }
            }
        });
    }
    address
}

fn start_reactor(name: &'static str, count: &'static Count, run: impl FnOnce() + Send + 'static) {
    let body = move || {
        COUNT.set(Some(count));
        run();
    };
    thread::Builder::new().name(name.to_owned()).spawn(body).expect("a thread");
}

/// Users, and where they connect.
struct Load {
    request: SocketAddr,
    users: usize,
}

impl Load {
    /// A user that has just connected and spoken. Users come from many addresses, so that no port is used again
    /// while the kernel still remembers it.
    fn come(&mut self) -> (TcpStream, Ending) {
        self.users += 1;
        let ending = ENDINGS[self.users % ENDINGS.len()];
        let socket = Socket::new(Domain::IPV4, Type::STREAM, None).expect("a socket");
        let from = Ipv4Addr::new(127, 0, 1, (1 + self.users % 200) as u8);
        socket.bind(&SocketAddr::from((from, 0)).into()).expect("a free port");
        socket.connect(&self.request.into()).expect("the server listens");
        let mut stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(PATIENCE)).expect("a time");
        stream.write_all(&[ending as u8; MESSAGE_BYTES]).expect("taken");
        (stream, ending)
    }

    fn leave(&self, (mut stream, ending): (TcpStream, Ending)) {
        let mut message = [0; MESSAGE_BYTES];
        stream.read_exact(&mut message).expect("the echo");
        assert_eq!(message, [ending as u8; MESSAGE_BYTES]);
        match ending {
            Ending::UserFirst => stream.shutdown(Shutdown::Write).expect("connected"),
            Ending::LocalServerFirst => {}
            Ending::UserAborts => {
                return SockRef::from(&stream).set_linger(Some(Duration::ZERO)).expect("a time");
            }
        }
        assert_eq!(stream.read(&mut message).expect("a clean end"), 0);
    }

    fn burst(&mut self, count: usize) {
        let users: Vec<_> = (0..count).map(|_| self.come()).collect();
        users.into_iter().for_each(|user| self.leave(user));
    }

    fn run(&mut self, sessions: usize) {
        let until = self.users + sessions;
        while self.users < until {
            self.burst(BURST);
            for _ in 0..BETWEEN_BURSTS {
                let user = self.come();
                self.leave(user);
            }
        }
    }
}

/// Waits until the tunnel serves its first user: until then users may be reset.
fn wait_until_ready(request: SocketAddr) {
    let deadline = std::time::Instant::now() + PATIENCE;
    loop {
        let mut stream = TcpStream::connect(request).expect("the server listens");
        let mut message = [Ending::LocalServerFirst as u8; MESSAGE_BYTES];
        if stream.write_all(&message).and_then(|()| stream.read_exact(&mut message)).is_ok() {
            return;
        }
        assert!(std::time::Instant::now() < deadline, "no session in time");
    }
}

fn count_allocations(plain: bool, counts: &'static [Count; 2]) {
    // Set by whichever test comes first.
    let _ = log::set_logger(&Sink);
    log::set_max_level(LevelFilter::Info);

    // A message connection that was retired and is needed again would rightly allocate.
    let limits = Limits { retire: Duration::from_secs(3600), ..Limits::default() };
    let Ends { server, client, request } = Ends::new(start_local_server(), plain, &limits);
    start_reactor("server", &counts[0], move || server.run().expect("runs"));
    start_reactor("client", &counts[1], move || client.run().expect("runs"));
    wait_until_ready(request);

    let sessions = std::env::var("SKYORG_TEST_SESSIONS").ok().and_then(|text| text.parse().ok());
    let sessions = sessions.unwrap_or(SESSIONS);
    let mut load = Load { request, users: 0 };
    // Two, because the connections that the first one asks for come while it runs.
    load.burst(WARM_BURST);
    load.burst(WARM_BURST);
    load.run(1_000);
    let warm_up = counts.each_ref().map(|count| {
        count.warm.store(true, Ordering::Relaxed);
        count.allocations.load(Ordering::Relaxed)
    });
    assert!(
        warm_up.iter().all(|&count| count > 0),
        "the warm-up allocates, or nothing is counted: {warm_up:?}"
    );
    load.run(sessions);
    let [server, client] = [0, 1].map(|at| counts[at].allocations.load(Ordering::Relaxed) - warm_up[at]);
    println!(
        "{sessions} sessions, plain {plain}: {server} allocations of the server, {client} of the client"
    );
    println!("warm-up: {} allocations of the server, {} of the client", warm_up[0], warm_up[1]);
    assert_eq!((server, client), (0, 0), "the first ones are shown above");
}

#[test]
fn sealed_sessions_allocate_nothing() {
    static COUNTS: [Count; 2] = [const { Count::new() }; 2];
    count_allocations(false, &COUNTS);
}

#[test]
fn plain_sessions_allocate_nothing() {
    static COUNTS: [Count; 2] = [const { Count::new() }; 2];
    count_allocations(true, &COUNTS);
}
