{{/* Names, labels, images, and what the pods of the chart have in common. */}}

{{- define "kafscale.name" -}}
{{- default .Chart.Name .Values.nameOverride | trunc 40 | trimSuffix "-" -}}
{{- end }}

{{/* Prefix of all names. Forty characters leave room for what is put behind it. */}}
{{- define "kafscale.fullname" -}}
{{- $name := include "kafscale.name" . -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end }}

{{- define "kafscale.operator.name" -}}{{ include "kafscale.fullname" . }}-operator{{- end }}
{{- define "kafscale.console.name" -}}{{ include "kafscale.fullname" . }}-console{{- end }}

{{/* Labels that select the pods of a component: (dict "root" $ "component" "operator") */}}
{{- define "kafscale.selector" -}}
app.kubernetes.io/name: {{ include "kafscale.name" .root }}
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{/* Labels of an object: (dict "root" $ "component" "operator") */}}
{{- define "kafscale.labels" -}}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version | replace "+" "_" | trunc 63 | trimSuffix "-" }}
{{ include "kafscale.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/part-of: kafscale
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
{{- with .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Labels of a pod, without those that every new chart changes: (dict "root" $ "component" "operator" "values" .Values.operator) */}}
{{- define "kafscale.podLabels" -}}
{{ include "kafscale.selector" . }}
app.kubernetes.io/part-of: kafscale
{{- with merge (dict) .values.podLabels .root.Values.commonLabels }}
{{ toYaml . }}
{{- end }}
{{- end }}

{{/* Reference of an image: (dict "root" $ "image" .Values.operator.image) */}}
{{- define "kafscale.image" -}}
{{- $repository := .image.repository -}}
{{- with .root.Values.global.imageRegistry -}}
{{- $first := splitList "/" $repository | first -}}
{{- if and (contains "/" $repository) (or (contains "." $first) (contains ":" $first) (eq $first "localhost")) -}}
{{- $repository = trimPrefix (printf "%s/" $first) $repository -}}
{{- end -}}
{{- $repository = printf "%s/%s" (trimSuffix "/" .) $repository -}}
{{- end -}}
{{- if .image.digest -}}
{{- printf "%s@%s" $repository .image.digest -}}
{{- else if .image.useLatest -}}
{{- printf "%s:latest" $repository -}}
{{- else -}}
{{- printf "%s:%s" $repository (.image.tag | default .root.Chart.AppVersion) -}}
{{- end -}}
{{- end }}

{{- define "kafscale.pullPolicy" -}}
{{- if .useLatest }}Always{{ else }}{{ .pullPolicy }}{{ end -}}
{{- end }}

{{/* Pull secrets may be names or, as in a pod, objects with a name; here they are a JSON list of names. */}}
{{- define "kafscale.pullSecretNames" -}}
{{- $names := list -}}
{{- range .Values.imagePullSecrets -}}
{{- $names = append $names (ternary . (get (ternary (dict) . (kindIs "string" .)) "name") (kindIs "string" .)) -}}
{{- end -}}
{{- toJson $names -}}
{{- end }}

{{- define "kafscale.operator.serviceAccount" -}}
{{- if .Values.serviceAccount.create -}}
{{- default (include "kafscale.operator.name" .) .Values.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{- define "kafscale.console.serviceAccount" -}}
{{- if .Values.console.serviceAccount.create -}}
{{- default (include "kafscale.console.name" .) .Values.console.serviceAccount.name -}}
{{- else -}}
{{- default "default" .Values.console.serviceAccount.name -}}
{{- end -}}
{{- end }}

{{/* Namespaces with a Role of the operator, as a JSON list. */}}
{{- define "kafscale.watchNamespaces" -}}
{{- if .Values.watchNamespaces -}}
{{- .Values.watchNamespaces | uniq | toJson -}}
{{- else -}}
{{- list .Release.Namespace | toJson -}}
{{- end -}}
{{- end }}

{{/* What KAFSCALE_OPERATOR_WATCH_NAMESPACES says: empty is the operator's own namespace, * is all of them. */}}
{{- define "kafscale.watchNamespacesVariable" -}}
{{- if .Values.watchNamespaces -}}
{{- .Values.watchNamespaces | uniq | join "," -}}
{{- else if eq .Values.rbac.scope "cluster" -}}
*
{{- end -}}
{{- end }}

{{/* What a pod says besides its containers: (dict "root" $ "values" .Values.operator "serviceAccount" "…" "component" "operator") */}}
{{- define "kafscale.pod" -}}
serviceAccountName: {{ .serviceAccount }}
enableServiceLinks: false
{{- with include "kafscale.pullSecretNames" .root | fromJsonArray }}
imagePullSecrets:
{{- range . }}
  - name: {{ . }}
{{- end }}
{{- end }}
securityContext:
  {{- toYaml .values.podSecurityContext | nindent 2 }}
{{- with .values.priorityClassName }}
priorityClassName: {{ . }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
topologySpreadConstraints:
{{- if .values.topologySpreadConstraints }}
  {{- toYaml .values.topologySpreadConstraints | nindent 2 }}
{{- else }}
  - maxSkew: 1
    topologyKey: kubernetes.io/hostname
    whenUnsatisfiable: ScheduleAnyway
    labelSelector:
      matchLabels:
        {{- include "kafscale.selector" . | nindent 8 }}
{{- end }}
volumes:
  - name: tmp
    emptyDir:
      sizeLimit: {{ .values.tmpSizeLimit }}
{{- with .values.extraVolumes }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Fails if a variable is there twice: (dict "env" "- name: …" "path" "operator") */}}
{{- define "kafscale.checkEnv" -}}
{{- $seen := dict -}}
{{- range .env | fromYamlArray -}}
{{- if hasKey $seen .name -}}
{{- fail (printf "%s.extraEnv: the chart sets %s itself; use the value that is meant for it" $.path .name) -}}
{{- end -}}
{{- $_ := set $seen .name true -}}
{{- end -}}
{{- end }}

{{/* What both containers say besides name, image, arguments, ports and variables. */}}
{{- define "kafscale.container" -}}
{{- with .values.extraEnvFrom }}
envFrom:
  {{- toYaml . | nindent 2 }}
{{- end }}
startupProbe:
  httpGet:
    path: /livez
    port: http
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet:
    path: /livez
    port: http
  periodSeconds: 10
  timeoutSeconds: 5
readinessProbe:
  httpGet:
    path: /readyz
    port: http
  periodSeconds: 5
  timeoutSeconds: 5
resources:
  {{- toYaml .values.resources | nindent 2 }}
securityContext:
  {{- toYaml .values.securityContext | nindent 2 }}
volumeMounts:
  - name: tmp
    mountPath: /tmp
{{- with .values.extraVolumeMounts }}
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
