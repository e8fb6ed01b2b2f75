{{/* Name of what belongs to this release, short enough for a suffix. */}}
{{- define "sluice.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- if contains $name .Release.Name -}}
{{- .Release.Name | trunc 40 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name $name | trunc 40 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}
{{- end -}}

{{/* Name of what has no namespace: releases of one name in two namespaces must not meet. */}}
{{- define "sluice.clusterName" -}}
{{- printf "%s-%s" .Release.Namespace (include "sluice.fullname" .) -}}
{{- end -}}

{{/* Releases in one namespace each have their own leader. */}}
{{- define "sluice.leaseName" -}}
{{- printf "%s-operator" (include "sluice.fullname" .) -}}
{{- end -}}

{{- define "sluice.serviceAccountName" -}}
{{- default (include "sluice.fullname" .) .Values.serviceAccount.name -}}
{{- end -}}

{{- define "sluice.selectorLabels" -}}
app.kubernetes.io/name: sluice
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/component: operator
{{- end -}}

{{- define "sluice.labels" -}}
{{ include "sluice.selectorLabels" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "sluice.operatorImage" -}}
{{- printf "%s:%s" .Values.image.repository (default .Chart.AppVersion .Values.image.tag) -}}
{{- end -}}

{{/* The operator puts Kafka's version for {version}. */}}
{{- define "sluice.brokerImage" -}}
{{- printf "%s:%s" .Values.broker.repository (default (printf "%s-kafka-{version}" .Chart.AppVersion) .Values.broker.tag) -}}
{{- end -}}

{{/* What every pod of this chart has in common. Which user it runs as is the image's to say, or the platform's. */}}
{{- define "sluice.podPlacement" -}}
{{- with .Values.imagePullSecrets -}}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{ end -}}
{{- with .Values.priorityClassName -}}
priorityClassName: {{ . }}
{{ end -}}
{{- with .Values.nodeSelector -}}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{ end -}}
{{- with .Values.affinity -}}
affinity:
  {{- toYaml . | nindent 2 }}
{{ end -}}
{{- with .Values.tolerations -}}
tolerations:
  {{- toYaml . | nindent 2 }}
{{ end -}}
securityContext:
  runAsNonRoot: true
  seccompProfile:
    type: RuntimeDefault
{{- end -}}

{{- define "sluice.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities:
  drop: [ALL]
{{- end -}}

{{/* Which namespaces' objects are judged; goes into a webhook. */}}
{{- define "sluice.namespaceSelector" -}}
{{- if .Values.watchNamespaces -}}
namespaceSelector:
  matchExpressions:
    - key: kubernetes.io/metadata.name
      operator: In
      values: {{ toJson .Values.watchNamespaces }}
{{- end -}}
{{- end -}}

{{/* What the operator may do in a namespace that it watches. */}}
{{- define "sluice.namespacedRules" -}}
# Its own kinds: users make them, the operator adds finalizers and deletes only replays whose time to live is over.
- apiGroups: [sluice.dev]
  resources: [messagingclusters, topics, consumergroups, replayjobs, users]
  verbs: [get, list, watch, patch]
- apiGroups: [sluice.dev]
  resources: [replayjobs]
  verbs: [delete]
- apiGroups: [sluice.dev]
  resources:
    - messagingclusters/status
    - topics/status
    - consumergroups/status
    - replayjobs/status
    - users/status
  verbs: [get, patch]
# Where OwnerReferencesPermissionEnforcement is on, owning objects needs this.
- apiGroups: [sluice.dev]
  resources:
    - messagingclusters/finalizers
    - topics/finalizers
    - consumergroups/finalizers
    - replayjobs/finalizers
    - users/finalizers
  verbs: [update]
# Kafka nodes, their addresses, configuration, keys and volumes.
- apiGroups: [apps]
  resources: [statefulsets]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [services, secrets, persistentvolumeclaims]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [""]
  resources: [configmaps]
  verbs: [get, list, create, patch, delete]
- apiGroups: [policy]
  resources: [poddisruptionbudgets]
  verbs: [get, create, patch]
- apiGroups: [networking.k8s.io]
  resources: [networkpolicies]
  verbs: [get, create, patch, delete]
# Rolling restarts delete pods; StatefulSets make them.
- apiGroups: [""]
  resources: [pods]
  verbs: [get, list, watch, delete]
# Workers of replays.
- apiGroups: [batch]
  resources: [jobs]
  verbs: [get, list, watch, create, patch, delete]
- apiGroups: [events.k8s.io]
  resources: [events]
  verbs: [create]
# Whether the namespace is being deleted.
- apiGroups: [""]
  resources: [namespaces]
  verbs: [get]
{{- end -}}
