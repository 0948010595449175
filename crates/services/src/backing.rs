//! How a module becomes the backing store of `content`, and how it takes its leave (RFC 10).

use module::{Context, Failure, Severity};
use proto::Empty;
use proto::content::{Backing, ContentRegisterBacking, ContentUnregisterBacking};
use types::Rank;

/// The service of the backing store, whatever module it is.
const SERVICE: &str = "content-backing";

/// Serves requests for the backing store from now on.
///
/// # Errors
///
/// Another module does so already.
pub(crate) fn serve(context: &Context) -> Result<(), Failure> {
    context.register_service(SERVICE)?;
    Ok(())
}

/// Announces the module to `content`.
///
/// # Errors
///
/// There is another backing store, or was.
pub(crate) async fn register(context: &Context) -> Result<(), Failure> {
    let backing = Backing {
        name: context.name().to_owned(),
    };
    let register = context
        .handle
        .call::<ContentRegisterBacking>(Rank::LEADER, &backing);
    register.await?;
    Ok(())
}

/// Takes that back. `content` knows then that nothing more can be stored.
pub(crate) async fn unregister(context: &Context) {
    let unregister = context
        .handle
        .call::<ContentUnregisterBacking>(Rank::LEADER, &Empty {});
    if let Err(error) = unregister.await {
        // `content` may have gone first.
        context.log(Severity::Debug, format!("unregister-backing: {error}"));
    }
}

/// Ends what [`serve`] began.
pub(crate) fn unserve(context: &Context) {
    context.unregister_service(SERVICE);
}
