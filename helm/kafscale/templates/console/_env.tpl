{{/* Not empty if the chart makes the secret of the login. A login without one of its halves is a mistake. */}}
{{- define "kafscale.console.ownSecret" -}}
{{- $auth := .Values.console.auth -}}
{{- if and $auth.existingSecret (or $auth.username $auth.password) -}}
{{- fail "console.auth: set either existingSecret, or username and password" -}}
{{- else if ne (empty $auth.username) (empty $auth.password) -}}
{{- fail "console.auth: set both username and password, or neither" -}}
{{- else if $auth.username -}}
true
{{- end -}}
{{- end }}

{{/* Variables of the console. */}}
{{- define "kafscale.console.env" -}}
{{- $console := .Values.console -}}
- name: KAFSCALE_CONSOLE_HTTP_ADDR
  value: {{ printf "%s:%d" $console.bindAddress (int $console.port) | quote }}
- name: KAFSCALE_LOG_LEVEL
  value: {{ $console.logLevel | quote }}
{{- with $console.etcdEndpoints | default .Values.operator.etcdEndpoints }}
- name: KAFSCALE_CONSOLE_ETCD_ENDPOINTS
  value: {{ join "," . | quote }}
{{- end }}
- name: KAFSCALE_S3_NAMESPACE
  value: {{ $console.clusterName | default .Values.operator.s3Namespace | default .Release.Namespace | quote }}
{{- with $console.trustedProxies }}
- name: KAFSCALE_CONSOLE_TRUSTED_PROXIES
  value: {{ join "," . | quote }}
{{- end }}
- name: KAFSCALE_CONSOLE_COOKIE_SECURE
  value: {{ $console.cookieSecure | quote }}
{{- with $console.brokerMetricsUrl }}
- name: KAFSCALE_CONSOLE_BROKER_METRICS_URL
  value: {{ . | quote }}
{{- end }}
{{- $operatorMetrics := $console.operatorMetricsUrl }}
{{- if and (not $operatorMetrics) .Values.operator.metrics.enabled }}
{{- $operatorMetrics = printf "http://%s-metrics:%d/metrics" (include "kafscale.operator.name" .) (int .Values.operator.metrics.service.port) }}
{{- end }}
{{- with $operatorMetrics }}
- name: KAFSCALE_CONSOLE_OPERATOR_METRICS_URL
  value: {{ . | quote }}
{{- end }}
{{- with $console.etcdAuth }}
{{- if .existingSecret }}
- name: KAFSCALE_CONSOLE_ETCD_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .usernameKey }}
- name: KAFSCALE_CONSOLE_ETCD_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ .existingSecret }}
      key: {{ .passwordKey }}
{{- end }}
{{- end }}
{{- $secret := $console.auth.existingSecret }}
{{- if include "kafscale.console.ownSecret" . }}
{{- $secret = printf "%s-auth" (include "kafscale.console.name" .) }}
{{- end }}
{{- with $secret }}
- name: KAFSCALE_UI_USERNAME
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $console.auth.usernameKey }}
- name: KAFSCALE_UI_PASSWORD
  valueFrom:
    secretKeyRef:
      name: {{ . }}
      key: {{ $console.auth.passwordKey }}
{{- end }}
{{- with $console.extraEnv }}
{{ toYaml . }}
{{- end }}
{{- end }}
