//! What holds of a service and of a process, said once for all forms.

use std::time::Instant;

use super::view::View;
use crate::machine::end_of_proof;
use crate::machine::status::{PublicationState, PublicationStatus, ServiceStatus};

/// What is known of a publication or a service.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// It fails.
    Failing,
    /// It was not seen to work for a minute, and no failure is known.
    Unproven,
    /// It was seen to work within the last minute.
    Proven,
}

impl State {
    /// The word for it.
    pub fn name(self) -> &'static str {
        match self {
            State::Failing => "failing",
            State::Unproven => "unproven",
            State::Proven => "proven",
        }
    }
}

/// What is said of a publication or a service.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Judgement<'v> {
    /// What is known.
    pub state: State,
    /// Why it fails.
    pub reason: Option<&'v str>,
    /// When it was last seen to work.
    pub proof: Option<Instant>,
    /// Since when it is unproven.
    pub since: Option<Instant>,
}

/// Judges a publication.
pub fn of_publication(publication: &PublicationStatus, now: Instant) -> Judgement<'_> {
    let proof = publication.proof;
    let end = proof.map(end_of_proof);
    let (state, reason, since) = match &publication.state {
        PublicationState::Proven if end.is_some_and(|end| now < end) => (State::Proven, None, None),
        // Nothing is green without a young proof: this one became too old since its row was gathered.
        PublicationState::Proven => (State::Unproven, None, end),
        PublicationState::Unproven(since) => (State::Unproven, None, Some(*since)),
        PublicationState::Failing(reason) => (State::Failing, Some(&**reason), None),
    };
    Judgement { state, reason, proof, since }
}

/// Judges a service: it works where one of its publications does.
pub fn of_service(service: &ServiceStatus, now: Instant) -> Judgement<'_> {
    let all = || service.publications.iter().map(|publication| of_publication(publication, now));
    let proof = all().filter_map(|it| it.proof).max();
    let best = all().max_by_key(|it| match it.state {
        State::Proven => 2,
        // A reason says more than none.
        State::Failing => 1,
        State::Unproven => 0,
    });
    match best {
        Some(best) => Judgement { proof, ..best },
        None => {
            let reason = service.reason.as_deref();
            let state = if reason.is_some() { State::Failing } else { State::Unproven };
            Judgement { state, reason, proof, since: None }
        }
    }
}

/// Whether it matters for the whole that a service is not proven. Ports that a client asked for count while it is
/// there, and what only users can prove does not count before they have come.
fn counts(service: &ServiceStatus, judgement: &Judgement) -> bool {
    let is_there = !service.publications.is_empty() || service.exposed_by.is_none();
    is_there && (service.is_probed || judgement.state != State::Unproven)
}

/// The exit status of `skyorg status`: 0 where everything is proven, 1 where something is, 2 where nothing is.
pub fn exit_status(view: &View) -> u8 {
    let (mut is_all, mut is_some, mut is_any) = (true, false, false);
    for service in &view.snapshot.services {
        let judgement = of_service(service, view.at);
        if !counts(service, &judgement) {
            continue;
        }
        is_any = true;
        is_some |= judgement.state == State::Proven;
        let mut states = service.publications.iter().map(|it| of_publication(it, view.at).state);
        // Of a service that only users prove, one of several publications may wait for them.
        let are_good =
            states.all(|state| state == State::Proven || state == State::Unproven && !service.is_probed);
        is_all &= judgement.state == State::Proven && are_good;
    }
    let is_well = view.head.refused.is_none() && !view.snapshot.totals.is_out_of_descriptors;
    match (is_all && is_well, is_some || !is_any) {
        (true, _) => 0,
        (false, true) => 1,
        (false, false) => 2,
    }
}

/// What a health check is told: a line for each service that is judged, and whether all is well enough.
pub struct Health {
    /// Whether users are served.
    pub is_well: bool,
    /// What is said.
    pub text: String,
}

/// Whether the process serves: one service is proven, or none is declared.
pub fn health(view: &View) -> Health {
    if view.head.is_draining {
        return Health { is_well: false, text: "draining\n".to_owned() };
    }
    let mut is_served = false;
    let mut is_judged = false;
    let mut text = String::new();
    for service in &view.snapshot.services {
        let judgement = of_service(service, view.at);
        is_served |= judgement.state == State::Proven;
        if counts(service, &judgement) {
            is_judged = true;
            text.push_str(&line(service, &judgement));
        }
    }
    if is_served || !is_judged { well() } else { Health { is_well: false, text } }
}

/// Whether one service is served; `None` if there is none of this name.
pub fn health_of(view: &View, name: &str) -> Option<Health> {
    let mut named = view.snapshot.services.iter().filter(|service| service.name.as_str() == name).peekable();
    named.peek()?;
    if view.head.is_draining {
        return Some(Health { is_well: false, text: "draining\n".to_owned() });
    }
    let mut text = String::new();
    for service in named {
        let judgement = of_service(service, view.at);
        if judgement.state == State::Proven || !counts(service, &judgement) && service.exposed_by.is_none() {
            return Some(well());
        }
        text.push_str(&line(service, &judgement));
    }
    Some(Health { is_well: false, text })
}

fn well() -> Health {
    Health { is_well: true, text: "ok\n".to_owned() }
}

fn line(service: &ServiceStatus, judgement: &Judgement) -> String {
    match judgement.reason {
        Some(reason) => format!("{}: failing: {reason}\n", service.name),
        None => format!("{}: {}\n", service.name, judgement.state.name()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::view::examples::{mixed, publication, service, view};
    use super::*;

    fn failing() -> PublicationState {
        PublicationState::Failing("client silent for 5 s".into())
    }

    fn status_of(services: impl FnOnce(Instant) -> Vec<ServiceStatus>) -> u8 {
        exit_status(&view(services))
    }

    #[test]
    fn a_service_is_proven_where_one_publication_is_and_not_everything_is_well_then() {
        let both = |at| {
            let proven = publication(PublicationState::Proven, Some(3), at);
            vec![service("web", vec![publication(failing(), Some(1), at), proven])]
        };
        let view = view(both);
        assert_eq!(of_service(&view.snapshot.services[0], view.at).state, State::Proven);
        assert_eq!((exit_status(&view), health(&view).is_well), (1, true));
    }

    #[test]
    fn an_old_proof_proves_nothing() {
        let old = |at| vec![service("web", vec![publication(PublicationState::Proven, Some(61), at)])];
        assert_eq!(status_of(old), 2);
        let over = |at| vec![service("web", vec![publication(PublicationState::Proven, Some(60), at)])];
        let over = view(over);
        let judgement = of_service(&over.snapshot.services[0], over.at);
        assert_eq!((judgement.state, judgement.since), (State::Unproven, Some(over.at)));
        let young = |at| vec![service("web", vec![publication(PublicationState::Proven, Some(59), at)])];
        assert_eq!(status_of(young), 0);
    }

    #[test]
    fn the_exit_status_is_that_of_what_counts() {
        assert_eq!(exit_status(&mixed()), 1);
        assert_eq!(status_of(|_| vec![service("web", Vec::new())]), 2);
        assert_eq!(status_of(|_| Vec::new()), 0);
        let away =
            |_| vec![ServiceStatus { exposed_by: "office".parse().ok(), ..service("game", Vec::new()) }];
        assert_eq!(status_of(away), 0, "ports that a client asked for, which is away");
        let unprobed = |state: PublicationState| {
            move |at| {
                vec![ServiceStatus { is_probed: false, ..service("web", vec![publication(state, None, at)]) }]
            }
        };
        assert_eq!(status_of(unprobed(PublicationState::Unproven(Instant::now()))), 0);
        assert_eq!(status_of(unprobed(failing())), 2);
    }

    #[test]
    fn a_refused_configuration_is_not_all_well() {
        let mut view =
            view(|at| vec![service("web", vec![publication(PublicationState::Proven, Some(3), at)])]);
        assert_eq!(exit_status(&view), 0);
        let faults = ["server.toml:1:1: wanted".to_owned()].into();
        view.head.refused = Some(super::super::view::RefusedConfiguration { since: view.wall, faults });
        assert_eq!((exit_status(&view), health(&view).is_well), (1, true));
    }

    #[test]
    fn a_health_check_is_told_which_service_fails_and_why() {
        let view = mixed();
        assert!(health(&view).is_well);
        let told = |name| health_of(&view, name).map(|health| (health.is_well, health.text));
        assert_eq!(told("web"), Some((true, "ok\n".to_owned())));
        assert_eq!(told("db"), Some((false, "db: failing: local server refuses connections\n".to_owned())));
        assert_eq!(told("mail"), Some((false, "mail: failing: no client\n".to_owned())));
        assert_eq!(told("none"), None);
        let mut dead = view.clone();
        dead.snapshot.services.remove(0);
        let health = health(&dead);
        assert!(!health.is_well && health.text.lines().count() == 2, "{}", health.text);
    }
}
