//! `ALTER CLUSTER`.

use sheaf_planners::parser::AlterCluster;

use crate::answer::Answer;
use crate::error::QueryError;
use crate::session::Session;

pub(super) async fn run(session: &Session, change: AlterCluster) -> Result<Answer, QueryError> {
    match change {
        AlterCluster::DrainNode { node } => session.engine().options().cluster.drain(&node).await?,
        AlterCluster::RemoveNode { node } => session.engine().options().replication.remove(&node).await?,
    }
    Ok(Answer::done())
}
