//! The end of a server that was asked to end: no new users, time for those who are there, then the rest is reset.

use super::*;

impl Server {
    pub(super) fn drain(&mut self) {
        info!("draining: {} users have up to {} s to finish", self.users, self.limits.drain.as_secs());
        self.draining = Some(self.now + self.limits.drain);
        self.outputs.extend(self.listeners.clear().into_iter().map(Output::StopListening));
        let waiting: Vec<ConnId> =
            self.services.iter().flat_map(|service| service.waiting.iter().copied()).collect();
        waiting.into_iter().for_each(|id| self.close(id, CloseReason::Shutdown));
        for index in 0..self.clients.capacity() {
            while let Some(id) = self.clients.get_mut(index).and_then(|client| client.idle.pop_back()) {
                self.retire(id, CloseReason::Drained);
            }
        }
        self.exit_if_drained();
    }

    pub(super) fn exit_if_drained(&mut self) {
        let busy = |(_, part): (ConnId, &Part)| match part {
            Part::User(_) => true,
            Part::Message { state, .. } => matches!(state, MessageState::Offered(_) | MessageState::Busy),
            _ => false,
        };
        if self.draining.is_some() && !self.parts.iter().any(busy) {
            self.outputs.push_back(Output::Exit);
        }
    }

    pub(super) fn drain_due(&mut self) {
        let users: Vec<ConnId> =
            self.parts.iter().filter(|(_, part)| matches!(part, Part::User(_))).map(|it| it.0).collect();
        warn!("{} users had not finished and are reset", users.len());
        users.into_iter().for_each(|id| self.close(id, CloseReason::Shutdown));
        self.outputs.push_back(Output::Exit);
    }
}
