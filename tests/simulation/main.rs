//! The second ring of tests: a server, its clients, their users and local servers in one virtual world with faults,
//! drawn from a seed. See `world.rs` for the world, `drawn.rs` for what a seed says of it, `tcp` for its network, `shadow.rs`
//! for what must hold of each byte.
//!
//! Each world is besieged by one kind of hostile users, strangers or clients, see `actors`; `served.rs` says who must
//! be served meanwhile, and how soon. Hostile servers have worlds of their own.
//!
//! - `cargo test --test simulation` lives through 256 worlds;
//! - `SKYORG_SEEDS=10000 cargo test --test simulation` through more;
//! - `SKYORG_RELOADS=17 cargo test --test simulation configurations` through that one with its reloads;
//! - `SKYORG_SEED=17 cargo test --test simulation` through that one, with its story on stderr.

mod actors;
mod askers;
mod counted;
mod drawn;
mod faults;
mod line;
mod network;
mod process;
mod reaping;
mod reloads;
mod served;
mod shadow;
mod strangers;
mod tale;
mod talker;
mod tcp;
mod trace;
mod world;

use std::time::Duration;

use skyorg::config::limits::Limits;

use askers::Market;
use tale::Tale;
use world::World;

/// Worlds per test run.
const SEEDS: u64 = 256;
/// Tests that share them, so that they run side by side.
const PARTS: u64 = 8;

/// What travelling and talking take, beside waiting for a message connection.
const SLACK: Duration = Duration::from_millis(700);
/// Worlds that showed a bug, and which; the last shows one that would come back without shares of waiting places.
const REGRESSIONS: [(u64, &str); 4] = [
    (413, "a refused user was reset because the client that refused it published anew"),
    (502, "the same, beside two honest clients"),
    (226, "a client that accepts nothing got its share of users for ever"),
    (394, "users of a service that nobody serves took every waiting place"),
];

/// Says which seed it was when its world fails.
struct Seed(u64);

impl Drop for Seed {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("\nseed {0}: replay it with SKYORG_SEED={0} cargo test --test simulation\n", self.0);
        }
    }
}

fn live(seed: u64) {
    let seed = Seed(seed);
    World::new(seed.0).live();
}

fn variable(name: &str) -> Option<u64> {
    let text = std::env::var(name).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{name}={text}: wanted a number")))
}

fn part(part: u64) {
    if let Some(seed) = variable("SKYORG_SEED") {
        if part == 0 {
            trace::start();
            live(seed);
        }
        return;
    }
    if part == 0 {
        REGRESSIONS.into_iter().for_each(|(seed, _)| live(seed));
    }
    let seeds = variable("SKYORG_SEEDS").unwrap_or(SEEDS);
    (0..seeds).filter(|seed| seed % PARTS == part).for_each(live);
}

macro_rules! parts {
    ($($name:ident $part:expr;)*) => {
        $(#[test]
        fn $name() {
            part($part);
        })*
    };
}

parts! {
    worlds_0 0;
    worlds_1 1;
    worlds_2 2;
    worlds_3 3;
    worlds_4 4;
    worlds_5 5;
    worlds_6 6;
    worlds_7 7;
}

#[test]
fn no_port_belongs_to_two_and_everybody_who_asks_is_answered() {
    let seeds = variable("SKYORG_SEED").map_or(0..SEEDS, |seed| seed..seed + 1);
    let mut granted = 0;
    for seed in seeds {
        let _seed = Seed(seed);
        let mut market = Market::new(seed);
        market.live();
        granted += market.granted;
    }
    assert!(granted > 100 * usize::from(variable("SKYORG_SEED").is_none()), "{granted} grants");
}

#[test]
fn a_pool_of_black_holes_loses_nobody_and_lets_nobody_wait() {
    for seed in 0..16 {
        let _seed = Seed(seed);
        let mut world = World::tell(seed, Tale::Holed);
        world.live();
        assert!(world.longest_stay < Duration::from_secs(2) + SLACK, "{:?}", world.longest_stay);
    }
}

#[test]
fn black_holes_among_the_pool_lose_nobody_and_let_nobody_wait() {
    for seed in 0..64 {
        let _seed = Seed(seed);
        let mut world = World::tell(seed, Tale::PartlyHoled);
        world.live();
        assert!(world.longest_stay < Duration::from_secs(2) + SLACK, "{:?}", world.longest_stay);
    }
}

#[test]
fn users_of_a_client_that_is_slow_and_not_dead_are_all_served() {
    for seed in 0..64 {
        let _seed = Seed(seed);
        let mut world = World::tell(seed, Tale::Starved);
        world.live();
        assert!(world.longest_stay < Duration::from_secs(5) + SLACK, "{:?}", world.longest_stay);
    }
}

#[test]
fn users_who_lose_one_connection_after_the_other_lose_no_byte() {
    for seed in 0..64 {
        let _seed = Seed(seed);
        World::tell(seed, Tale::Failed).live();
    }
}

#[test]
fn users_of_a_frozen_client_are_told_in_time() {
    for seed in 0..16 {
        let _seed = Seed(seed);
        let mut world = World::tell(seed, Tale::Frozen);
        world.live();
        assert!(world.longest_stay < Limits::default().unheard + SLACK, "{:?}", world.longest_stay);
    }
}

/// The loop's depth must not depend on how many sessions wait: this thread has little stack.
#[test]
fn users_who_wait_for_one_slow_name_need_no_stack() {
    const STACK_BYTES: usize = 512 * 1024;
    let waiting = || {
        let _seed = Seed(1);
        World::tell(1, Tale::SlowName).live();
    };
    let thread = std::thread::Builder::new().stack_size(STACK_BYTES).spawn(waiting).expect("a thread");
    thread.join().expect("every user was served");
}

#[test]
fn where_the_kernel_refuses_to_splice_bulk_flows_are_as_whole() {
    let mut refused = 0;
    for seed in 0..32 {
        let _seed = Seed(seed);
        let mut world = World::tell(seed, Tale::Unspliced);
        world.live();
        let [moved, asked] = world.spliced();
        assert_eq!(moved, 0, "splices that moved bytes");
        refused += asked;
    }
    assert!(refused > 0, "no process tried to splice");
}

/// That the loop does not spin meanwhile, each world asserts of itself.
#[test]
fn accepting_that_fails_for_any_reason_pauses_and_loses_nobody() {
    for seed in 0..64 {
        let _seed = Seed(seed);
        World::tell(seed, Tale::Forbidden).live();
    }
}

#[test]
fn a_name_server_that_fails_loses_nobody_once_it_has_answered() {
    for seed in 0..64 {
        let _seed = Seed(seed);
        World::tell(seed, Tale::Nameless).live();
    }
}

#[test]
fn names_that_lead_elsewhere_of_a_sudden_lose_nobody() {
    over_lines(Tale::Moved, 64);
}

#[test]
fn a_client_that_is_gone_is_forgotten() {
    for seed in 0..16 {
        let _seed = Seed(seed);
        World::tell(seed, Tale::Gone).live();
    }
}

#[test]
fn a_server_that_is_replaced_while_sessions_run_loses_no_user_and_no_byte() {
    for seed in 0..variable("SKYORG_SEEDS").unwrap_or(128) {
        let _seed = Seed(seed);
        World::tell(seed, Tale::Replaced).live();
    }
}

/// That what stays loses nothing, and what goes is reset at once, each world asserts of itself.
#[test]
fn configurations_that_come_while_sessions_run_take_nothing_but_what_they_remove() {
    if let Some(seed) = variable("SKYORG_RELOADS") {
        trace::start();
        let _seed = Seed(seed);
        return World::tell(seed, Tale::Reloaded).live();
    }
    let mut outcomes = [0; 2];
    for seed in 0..variable("SKYORG_SEEDS").unwrap_or(SEEDS) {
        let _seed = Seed(seed);
        let mut world = World::tell(seed, Tale::Reloaded);
        world.live();
        outcomes.iter_mut().zip(world.reloads()).for_each(|(all, one)| *all += one);
    }
    assert!(outcomes.iter().all(|&count| count > 0), "{outcomes:?} held and were refused");
}

#[test]
fn clients_that_get_other_configurations_lose_only_the_sessions_of_what_they_give_up() {
    over_lines(Tale::Republished, 128);
}

#[test]
fn a_client_that_a_hostile_server_has_misled_keeps_its_bounds_and_finds_an_honest_one() {
    for seed in 0..variable("SKYORG_SEEDS").unwrap_or(56) {
        let _seed = Seed(seed);
        World::tell(seed, Tale::Misled).live();
    }
}

/// Lives through so many worlds of a tale, side by side with others; `SKYORG_LINE=17` through that one.
fn over_lines(tale: Tale, worlds: u64) {
    over_lines_and(tale, worlds, World::live);
}

fn over_lines_and(tale: Tale, worlds: u64, live: impl Fn(&mut World)) {
    let one = variable("SKYORG_LINE");
    if one.is_some() {
        trace::start();
    }
    let all = 0..variable("SKYORG_SEEDS").unwrap_or(worlds);
    for seed in one.map_or(all, |seed| seed..seed + 1) {
        let _seed = Seed(seed);
        live(&mut World::tell(seed, tale));
    }
}

#[test]
fn round_trips_of_up_to_ten_seconds_that_change_lose_nobody() {
    over_lines(Tale::Distant, 48);
}

#[test]
fn a_line_that_is_down_for_a_while_loses_no_link_and_no_session() {
    over_lines(Tale::Interrupted, 48);
}

#[test]
fn a_line_that_was_down_while_nobody_came_serves_at_once_when_it_is_back() {
    over_lines_and(Tale::Unnoticed, 64, |world| {
        let most = Duration::from_secs(1) + 8 * world.round_trip();
        world.live();
        let took = world.first_wait().expect("somebody is served");
        assert!(took < most, "the first user is served after {took:?}, not {most:?}");
    });
}

#[test]
fn a_narrow_line_with_a_deep_queue_loses_nobody() {
    over_lines(Tale::Bloated, 40);
}

#[test]
fn connects_that_are_never_answered_lose_nobody() {
    over_lines(Tale::Unanswered, 256);
}

/// Lives through worlds in which all connections are forgotten. Users who come once the client knows are served at once.
fn forgotten(tale: Tale) {
    let worlds = variable("SKYORG_SEEDS").unwrap_or(48);
    let seeds = variable("SKYORG_LINE").map_or(0..worlds, |seed| seed..seed + 1);
    for seed in seeds {
        let _seed = Seed(seed);
        if variable("SKYORG_LINE").is_some() {
            trace::start();
        }
        let mut world = World::tell(seed, tale);
        let most = Duration::from_secs(1) + 16 * world.round_trip();
        world.live();
        assert!(world.longest_wait < most, "a user is served after {:?}, not {most:?}", world.longest_wait);
    }
}

/// That no link ends and none of their sessions is lost, each world asserts of itself.
#[test]
fn when_all_connections_are_forgotten_links_go_on_on_new_ones() {
    forgotten(Tale::Forgotten);
}

#[test]
fn a_server_that_was_killed_while_all_connections_were_forgotten_is_found_by_its_clients() {
    forgotten(Tale::Restarted);
}

#[test]
fn middleboxes_that_forget_quiet_connections_lose_nobody() {
    over_lines(Tale::Forgetful, 32);
}
