{{/* Variables of the operator. Those that are empty are left out: the operator's own default holds. */}}
{{- define "kafscale.operator.env" -}}
{{- $operator := .Values.operator -}}
{{- $snapshot := $operator.etcdSnapshot -}}
- name: KAFSCALE_OPERATOR_NAMESPACE
  valueFrom:
    fieldRef:
      fieldPath: metadata.namespace
- name: KAFSCALE_OPERATOR_POD_NAME
  valueFrom:
    fieldRef:
      fieldPath: metadata.name
- name: KAFSCALE_OPERATOR_METRICS_ADDR
  value: {{ printf "%s:%d" $operator.metrics.bindAddress (int $operator.metrics.port) | quote }}
- name: KAFSCALE_OPERATOR_BROKER_IMAGE
  value: {{ include "kafscale.image" (dict "root" $ "image" $operator.brokerImage) | quote }}
- name: KAFSCALE_OPERATOR_BROKER_IMAGE_PULL_POLICY
  value: {{ include "kafscale.pullPolicy" $operator.brokerImage | quote }}
{{- /* A list, since the order of a map would be that of the alphabet. */}}
{{- $variables := list
  (list "KAFSCALE_OPERATOR_BROKER_IMAGE_PULL_SECRETS" (include "kafscale.pullSecretNames" . | fromJsonArray | join ","))
  (list "KAFSCALE_OPERATOR_WATCH_NAMESPACES" (include "kafscale.watchNamespacesVariable" .))
  (list "KAFSCALE_OPERATOR_LEADER_KEY" $operator.leaderKey)
  (list "KAFSCALE_OPERATOR_ETCD_ENDPOINTS" (join "," $operator.etcdEndpoints))
  (list "KAFSCALE_OPERATOR_ETCD_IMAGE" $operator.etcd.image)
  (list "KAFSCALE_OPERATOR_ETCD_STORAGE_SIZE" $operator.etcd.storageSize)
  (list "KAFSCALE_OPERATOR_ETCD_STORAGE_CLASS" $operator.etcd.storageClass)
  (list "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_BUCKET" $snapshot.bucket)
  (list "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_PREFIX" $snapshot.prefix)
  (list "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_SCHEDULE" $snapshot.schedule)
  (list "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_ETCDCTL_IMAGE" $snapshot.etcdctlImage)
  (list "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_IMAGE" $snapshot.image)
  (list "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_S3_ENDPOINT" $snapshot.s3Endpoint)
  (list "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_STALE_AFTER_SEC" (int64 $snapshot.staleAfterSec | toString))
  (list "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_CREATE_BUCKET" (ternary "1" "" $snapshot.createBucket))
  (list "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_PROTECT_BUCKET" (ternary "1" "" $snapshot.protectBucket))
  (list "KAFSCALE_OPERATOR_ETCD_SNAPSHOT_SKIP_PREFLIGHT" (ternary "1" "" $snapshot.skipPreflight))
  (list "KAFSCALE_S3_NAMESPACE" $operator.s3Namespace)
  (list "KAFSCALE_SEGMENT_BYTES" (int64 $operator.segmentBytes | toString))
  (list "KAFSCALE_FLUSH_INTERVAL_MS" (int64 $operator.flushIntervalMs | toString))
  (list "KAFSCALE_LOG_LEVEL" $operator.logLevel)
  (list "KAFSCALE_TRACE_SLOW_REQUEST_MS" (int64 $operator.traceSlowRequestMs | toString))
}}
{{- range $variables }}
{{- if last . }}
- name: {{ first . }}
  value: {{ last . | quote }}
{{- end }}
{{- end }}
{{- with $operator.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
