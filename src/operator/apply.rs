//! The only way in which the operator writes to Kubernetes: while it leads, and so that others' fields stay theirs.

use super::context::OperatorContext;
use super::leader::NotLeading;
use super::view::FIELD_MANAGER;
use kube::Api;
use kube::api::{ApiResource, DeleteParams, DynamicObject, Patch, PatchParams, Preconditions};
use kube::core::GroupVersionKind;

/// Why a write failed.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// Another operator leads.
    #[error(transparent)]
    NotLeading(#[from] NotLeading),
    /// Kubernetes refuses or cannot be reached.
    #[error("{what} cannot be written: {source}")]
    Kubernetes {
        /// Kind and name.
        what: String,
        /// Its words.
        source: Box<kube::Error>,
    },
}

/// The resource of an object's kind.
pub fn resource_of(object: &DynamicObject) -> ApiResource {
    let types = object.types.clone().unwrap_or_default();
    let (group, version) = types.api_version.split_once('/').unwrap_or(("", &types.api_version));
    ApiResource::from_gvk(&GroupVersionKind::gvk(group, version, &types.kind))
}

/// Applies an object: what it says becomes so, what it does not say stays.
pub async fn apply(context: &OperatorContext, object: &DynamicObject) -> Result<DynamicObject, WriteError> {
    context.leadership.token()?;
    let resource = resource_of(object);
    let name = object.metadata.name.as_deref().unwrap_or_default();
    let namespace = object.metadata.namespace.as_deref().unwrap_or_default();
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, &resource);
    // A field that this version of Kubernetes does not know is an error and not a wish.
    let params = PatchParams::apply(FIELD_MANAGER).force().validation_strict();
    let applied = api.patch(name, &params, &Patch::Apply(object)).await;
    applied
        .map_err(|source| WriteError::Kubernetes { what: format!("{} {name}", resource.kind), source: source.into() })
}

/// Deletes an object, if it is still this very one. One that is gone is gone.
pub async fn delete(
    context: &OperatorContext,
    resource: &ApiResource,
    namespace: &str,
    name: &str,
    uid: Option<&str>,
) -> Result<(), WriteError> {
    context.leadership.token()?;
    let api: Api<DynamicObject> = Api::namespaced_with(context.client.clone(), namespace, resource);
    let same = Preconditions { uid: uid.map(str::to_owned), resource_version: None };
    match api.delete(name, &DeleteParams::background().preconditions(same)).await {
        Ok(_) => Ok(()),
        Err(kube::Error::Api(status)) if [404, 409].contains(&status.code) => Ok(()),
        Err(source) => Err(WriteError::Kubernetes { what: format!("{} {name}", resource.kind), source: source.into() }),
    }
}
