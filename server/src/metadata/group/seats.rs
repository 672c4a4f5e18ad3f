//! Places in the group: how a coordinator is let in and how it is removed.

use std::sync::Arc;

use bytes::Bytes;
use prost::Message as _;
use sheaf_common::definitions::{Change, Definitions, IfExists, Object, Refusal};
use tracing::info;

use super::super::command::MemberChange;
use super::super::error::{MetadataError, Result};
use super::super::transport::messages::{JoinGroupRequest, Place, REMOVE, RemoveRequest, Seat};
use super::{CHANGE_TIMEOUT, Group, NodeDef, coordinators};

/// Connection ids have twelve bits for it.
const COORDINATOR_NO_MAX: u16 = (1 << 12) - 1;

/// How the settings begin that say whose a coordinator's number is.
pub(super) const NUMBER_PREFIX: &str = "coordinator_no.";

/// Says whose a coordinator's number is; no two can have one.
fn number(no: u16) -> Object {
    Object::setting(format!("{NUMBER_PREFIX}{no}"))
}

pub(super) fn reserve(no: u16, node: &str, if_exists: IfExists) -> Change {
    Change::create(number(no), node, if_exists)
}

impl Group {
    /// Gives a node its place: as a learner, which gets a vote as soon as it has caught up. A request that was answered
    /// before gets the same answer.
    ///
    /// Errs when another node has the name.
    pub(super) async fn admit(&self, request: &JoinGroupRequest) -> Result<Seat> {
        let invalid = |reason: String| MetadataError::Refused(Refusal::Invalid { reason });
        let port = u16::try_from(request.port).map_err(|_| invalid(format!("{} is not a port", request.port)))?;
        let object = Object::node(&request.name);
        let wanted = NodeDef {
            replica: 0,
            token: request.token,
            coordinator_no: 0,
            host: request.host.clone(),
            port,
            role: request.role.clone(),
            version: self.own.version.clone(),
        };
        let before = self.read().await?;
        if before.get(&object).is_none() {
            let create = Change::create(object.clone(), wanted.text()?, IfExists::Keep);
            self.node.change(vec![create], CHANGE_TIMEOUT).await?;
        }
        loop {
            let definitions = self.read().await?;
            let Some(record) = definitions.get(&object) else {
                return Err(invalid(format!("node {} was removed while it joined", request.name)));
            };
            let entered = record.parsed::<NodeDef>().map_err(invalid)?;
            if entered.token != request.token {
                let reason = format!(
                    "node name {} belongs to a coordinator at {}:{}; if that one is gone for good, remove it first: \
                     ALTER CLUSTER REMOVE NODE '{}'",
                    request.name, entered.host, entered.port, request.name
                );
                return Err(invalid(reason));
            }
            if entered.replica != 0 {
                return Ok(self.seat(&definitions, &entered));
            }
            // This node may not have entered its own yet.
            let is_free = |no: &u16| *no != self.coordinator_no && definitions.get(&number(*no)).is_none();
            let Some(no) = (1..=COORDINATOR_NO_MAX).find(is_free) else {
                return Err(invalid("the cluster has no number left for another coordinator".to_owned()));
            };
            // The index of the entry that named it: no other replica ever had it.
            let replica = record.created;
            let seated = NodeDef { replica, coordinator_no: no, ..wanted.clone() };
            let changes = vec![
                Change::alter(object.clone(), seated.text()?, Some(record.version)),
                reserve(no, &request.name, IfExists::Fail),
            ];
            let member = Some(MemberChange::AddLearner { replica });
            match self.node.change_members(changes, member, CHANGE_TIMEOUT).await {
                Ok(_) => info!(node = %request.name, replica, "coordinator has joined"),
                // Another request was faster: look again.
                Err(MetadataError::Refused(Refusal::VersionChanged { .. } | Refusal::Exists { .. })) => {}
                Err(error) => return Err(error),
            }
        }
    }

    fn seat(&self, definitions: &Definitions, entered: &NodeDef) -> Seat {
        let places = coordinators(definitions).filter(|(_, it)| it.replica != 0);
        Seat {
            cluster: self.sender.identity.cluster,
            replica: entered.replica,
            coordinator_no: u32::from(entered.coordinator_no),
            coordinators: places
                .map(|(_, it)| Place { replica: it.replica, host: it.host.clone(), port: u32::from(it.port) })
                .collect(),
        }
    }

    async fn read(&self) -> Result<Arc<Definitions>> {
        self.node.read(CHANGE_TIMEOUT, |state| Arc::clone(state.definitions())).await
    }

    /// Removes a coordinator for good; its process ends by itself. Asked of the one that is to go, it asks another:
    /// only another's answer says that its vote is not needed any more.
    ///
    /// Errs when there is no such coordinator, or when it is the only one.
    pub async fn remove(&self, name: &str) -> Result<()> {
        let invalid = |reason: String| MetadataError::Refused(Refusal::Invalid { reason });
        let definitions = self.read().await?;
        let found = coordinators(&definitions).find(|(it, _)| *it == name);
        let Some((_, entered)) = found else {
            return Err(invalid(format!("no coordinator of the cluster is called {name:?}")));
        };
        if entered.replica == self.sender.identity.replica {
            return self.ask_another_to_remove(name).await;
        }
        self.remove_other(name, &entered).await
    }

    /// As another coordinator asks for it, perhaps again: one that is gone already is removed.
    pub(super) async fn remove_for(&self, request: &RemoveRequest) -> Result<()> {
        let definitions = self.read().await?;
        let is_there = |(name, it): &(&str, Arc<NodeDef>)| *name == request.name && it.replica == request.replica;
        if request.replica != 0 && !coordinators(&definitions).any(|it| is_there(&it)) {
            return Ok(());
        }
        self.remove(&request.name).await
    }

    async fn remove_other(&self, name: &str, entered: &NodeDef) -> Result<()> {
        let changes = vec![
            Change::drop(Object::node(name)),
            Change::Drop {
                object: number(entered.coordinator_no),
                if_missing_keep: true,
                cascade: false,
                expected: None,
            },
        ];
        // One that never got its place is no member.
        let member = (entered.replica != 0).then_some(MemberChange::Remove { replica: entered.replica });
        self.node.change_members(changes, member, CHANGE_TIMEOUT).await?;
        info!(node = name, replica = entered.replica, "coordinator was removed");
        Ok(())
    }

    async fn ask_another_to_remove(&self, name: &str) -> Result<()> {
        let others = self.addresses.others(self.sender.identity.replica);
        let request = RemoveRequest { name: name.to_owned(), replica: self.sender.identity.replica };
        let body = Bytes::from(request.encode_to_vec());
        let mut last = "it is the only coordinator".to_owned();
        for (_, address) in others {
            match self.client.call(&address, REMOVE, body.clone(), CHANGE_TIMEOUT).await {
                Ok(_) => return Ok(()),
                Err(error) => last = error.message,
            }
        }
        let reason = format!("coordinator {name} cannot be removed: {last}");
        Err(MetadataError::Refused(Refusal::Invalid { reason }))
    }
}
