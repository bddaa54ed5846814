//! A cluster as builders of objects see it: the resource, with the operator's defaults where it is silent.
//!
//! Names of everything that belongs to a cluster are made here and nowhere else.

use super::crd::{CLUSTER_LABEL, GROUP, KafscaleCluster};
use crate::config::operator::OperatorConfig;
use k8s_openapi::api::core::v1::LocalObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference};
use kube::Resource;
use kube::api::DynamicObject;
use serde::Serialize;
use std::collections::BTreeMap;

/// Field manager of everything that the operator applies.
pub const FIELD_MANAGER: &str = "kafscale-operator";

/// Where the endpoints of etcd come from, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdMode {
    /// `spec.etcd.endpoints`.
    Spec,
    /// `KAFSCALE_OPERATOR_ETCD_ENDPOINTS`.
    Operator,
    /// Etcd that the operator runs.
    Managed,
}

impl EtcdMode {
    /// As in the status.
    pub fn name(self) -> &'static str {
        match self {
            Self::Spec => "Spec",
            Self::Operator => "Operator",
            Self::Managed => "Managed",
        }
    }
}

/// A cluster and what it gets where it does not say.
#[derive(Debug, Clone, Copy)]
pub struct ClusterView<'a> {
    /// The resource; it has a name, a namespace and a uid.
    pub resource: &'a KafscaleCluster,
    /// The operator's configuration.
    pub defaults: &'a OperatorConfig,
}

impl<'a> ClusterView<'a> {
    /// Name of the cluster.
    pub fn name(&self) -> &'a str {
        self.resource.metadata.name.as_deref().unwrap_or_default()
    }

    /// Kubernetes namespace of the cluster.
    pub fn namespace(&self) -> &'a str {
        self.resource.metadata.namespace.as_deref().unwrap_or_default()
    }

    /// Prefix of object keys and name of the cluster in etcd.
    pub fn kafscale_namespace(&self) -> &'a str {
        let own = self.resource.spec.s3.namespace.as_deref();
        own.or(self.defaults.s3_namespace.as_deref()).unwrap_or_else(|| self.namespace())
    }

    /// Name of the brokers' StatefulSet; pods are called `{this}-{ordinal}`.
    pub fn brokers_name(&self) -> String {
        format!("{}-broker", self.name())
    }

    /// Name of the Service that gives broker pods their names in DNS.
    pub fn brokers_headless_name(&self) -> String {
        format!("{}-broker-headless", self.name())
    }

    /// Name of managed etcd's StatefulSet.
    pub fn etcd_name(&self) -> String {
        format!("{}-etcd", self.name())
    }

    /// Name of the Service of managed etcd for clients.
    pub fn etcd_client_name(&self) -> String {
        format!("{}-etcd-client", self.name())
    }

    /// Who says where etcd is.
    pub fn etcd_mode(&self) -> EtcdMode {
        match () {
            () if !self.resource.spec.etcd.endpoints.is_empty() => EtcdMode::Spec,
            () if self.resource.spec.etcd.managed.is_none() && !self.defaults.etcd_endpoints.is_empty() => {
                EtcdMode::Operator
            }
            () => EtcdMode::Managed,
        }
    }

    /// Where brokers find etcd.
    pub fn etcd_endpoints(&self) -> Vec<String> {
        match self.etcd_mode() {
            EtcdMode::Spec => self.resource.spec.etcd.endpoints.clone(),
            EtcdMode::Operator => self.defaults.etcd_endpoints.clone(),
            EtcdMode::Managed => vec![format!("http://{}.{}.svc:2379", self.etcd_client_name(), self.namespace())],
        }
    }

    /// Pull secrets of all pods: those that the cluster names, else those of the operator.
    pub fn pull_secrets(&self) -> Vec<LocalObjectReference> {
        match self.resource.spec.brokers.pod.image_pull_secrets.as_slice() {
            [] => {
                let names = self.defaults.broker_image_pull_secrets.iter();
                names.map(|name| LocalObjectReference { name: name.clone() }).collect()
            }
            own => own.to_vec(),
        }
    }

    /// Labels of an object of `component` (broker, etcd, snapshot); a superset of [`Self::selector`].
    pub fn labels(&self, component: &str) -> BTreeMap<String, String> {
        let mut labels = self.selector(component);
        labels.extend(pairs(&[
            ("app.kubernetes.io/managed-by", "kafscale-operator"),
            ("app.kubernetes.io/part-of", "kafscale"),
            (CLUSTER_LABEL, self.name()),
        ]));
        labels
    }

    /// Labels that pods of `component` are selected by; they never change.
    pub fn selector(&self, component: &str) -> BTreeMap<String, String> {
        pairs(&[
            ("app.kubernetes.io/name", "kafscale"),
            ("app.kubernetes.io/instance", self.name()),
            ("app.kubernetes.io/component", component),
        ])
    }

    /// Metadata of an object that goes when the cluster goes.
    pub fn metadata(&self, name: impl Into<String>, component: &str) -> ObjectMeta {
        ObjectMeta {
            name: Some(name.into()),
            namespace: Some(self.namespace().to_owned()),
            labels: Some(self.labels(component)),
            owner_references: Some(vec![self.owner()]),
            ..ObjectMeta::default()
        }
    }

    /// The reference that makes the cluster the owner.
    pub fn owner(&self) -> OwnerReference {
        OwnerReference {
            api_version: format!("{GROUP}/v1alpha1"),
            kind: "KafscaleCluster".to_owned(),
            name: self.name().to_owned(),
            uid: self.resource.metadata.uid.clone().unwrap_or_default(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }
}

fn pairs(list: &[(&str, &str)]) -> BTreeMap<String, String> {
    list.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect()
}

/// Any object, as it is applied.
pub fn object<K>(object: &K) -> DynamicObject
where
    K: Resource<DynamicType = ()> + Serialize,
{
    let mut value = serde_json::to_value(object).expect("an object is plain data");
    let map = value.as_object_mut().expect("an object is a map");
    map.insert("apiVersion".to_owned(), K::api_version(&()).into());
    map.insert("kind".to_owned(), K::kind(&()).into());
    serde_json::from_value(value).expect("every object has a kind and metadata")
}
