{{- define "akvfs.name" -}}
{{- default "csi-secrets-store-provider-azure" .Values.nameOverride | trunc 63 | trimSuffix "-" -}}
{{- end -}}

{{- define "akvfs.fullname" -}}
{{- if .Values.fullnameOverride -}}
{{- .Values.fullnameOverride | trunc 63 | trimSuffix "-" -}}
{{- else if contains (include "akvfs.name" .) .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name (include "akvfs.name" .) | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{- define "akvfs.labels" -}}
app: {{ include "akvfs.name" . }}
app.kubernetes.io/name: {{ include "akvfs.name" . }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service | quote }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "akvfs.serviceAccount" -}}
csi-secrets-store-provider-azure
{{- end -}}

{{/* The pod of one system: a dict of root, os (linux or windows), and values, those of the system. */}}
{{- define "akvfs.daemonset" -}}
{{- $root := .root -}}
{{- $values := .values -}}
{{- $windows := eq .os "windows" -}}
{{- $proxy := $root.Values.Azure.proxySettings -}}
{{- $write := or $root.Values.writeMode (eq $root.Values.mountMode "write") -}}
{{- if and $write (not $windows) (eq (toString (dig "limits" "memory" "" (default dict $values.resources))) "100Mi") -}}
{{- fail "writeMode: what the provider writes counts for its memory limit; set linux.resources to hold all written files of a node twice, and 100Mi more" -}}
{{- end -}}
{{- $pods := printf "%s%spods" $values.kubeletRootDir ($windows | ternary "\\" "/") -}}
{{- $proxyCert := and (not $windows) $proxy.isProxyEnabled $proxy.proxyCert -}}
apiVersion: apps/v1
kind: DaemonSet
metadata:
  name: {{ include "akvfs.fullname" $root }}{{ if $windows }}-windows{{ end }}
  namespace: {{ $root.Release.Namespace }}
  labels:
    {{- include "akvfs.labels" $root | nindent 4 }}
spec:
  {{- with $values.updateStrategy }}
  updateStrategy:
    {{- toYaml (eq .type "OnDelete" | ternary (pick . "type") .) | nindent 4 }}
  {{- end }}
  selector:
    matchLabels:
      app: {{ include "akvfs.name" $root }}
  template:
    metadata:
      labels:
        {{- toYaml (merge (include "akvfs.labels" $root | fromYaml) (default dict $values.podLabels)) | nindent 8 }}
      {{- with $values.podAnnotations }}
      annotations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
    spec:
      {{- with $root.Values.imagePullSecrets }}
      imagePullSecrets:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      serviceAccountName: {{ include "akvfs.serviceAccount" $root }}
      automountServiceAccountToken: false
      {{- if not $windows }}
      hostNetwork: true
      {{- with $values.dnsPolicy }}
      dnsPolicy: {{ . }}
      {{- end }}
      {{- end }}
      {{- with $values.priorityClassName }}
      priorityClassName: {{ . | quote }}
      {{- end }}
      containers:
        - name: provider-azure-installer
          image: {{ printf "%s:%s" $values.image.repository $values.image.tag | quote }}
          imagePullPolicy: {{ $values.image.pullPolicy }}
          args:
            - {{ if $windows }}--endpoint=unix://C:\provider\azure.sock{{ else }}--endpoint=unix:///provider/azure.sock{{ end }}
            - --construct-pem-chain={{ $root.Values.constructPEMChain }}
            - --healthz-port={{ int $values.healthzPort }}
            - {{ printf "--healthz-path=%s" $values.healthzPath | quote }}
            - --healthz-timeout={{ $values.healthzTimeout }}
            - --prometheus-port={{ int $root.Values.metricsAddr }}
            {{- if $root.Values.logFormatJSON }}
            - --log-format-json=true
            {{- end }}
            {{- if int $root.Values.logVerbosity }}
            - -v={{ int $root.Values.logVerbosity }}
            {{- end }}
            {{- if $root.Values.writeCertAndKeyInSeparateFiles }}
            - --write-cert-and-key-in-separate-files=true
            {{- end }}
            {{- with $values.customUserAgent }}
            - {{ printf "--custom-user-agent=%s" . | quote }}
            {{- end }}
            {{- if $root.Values.policy }}
            - {{ if $windows }}--policy=C:\etc\akvfs\policy.yaml{{ else }}--policy=/etc/akvfs/policy.yaml{{ end }}
            {{- end }}
            {{- with $root.Values.mountMaxAge }}
            - --mount-max-age={{ . }}
            {{- end }}
            {{- with $root.Values.refreshMaxAge }}
            - --refresh-max-age={{ . }}
            {{- end }}
            {{- with $root.Values.maxStale }}
            - --max-stale={{ . }}
            {{- end }}
            {{- with $root.Values.mountMode }}
            - --mount-mode={{ . }}
            {{- end }}
          {{- if $proxy.isProxyEnabled }}
          envFrom:
            - secretRef:
                name: arc-proxy-config
          {{- end }}
          livenessProbe:
            httpGet:
              path: {{ $values.healthzPath | quote }}
              port: {{ int $values.healthzPort }}
            failureThreshold: 3
            initialDelaySeconds: 5
            timeoutSeconds: 10
            periodSeconds: 30
          readinessProbe:
            httpGet:
              path: {{ $values.healthzPath | quote }}
              port: {{ int $values.healthzPort }}
            timeoutSeconds: 10
            periodSeconds: 10
          {{- with $values.resources }}
          resources:
            {{- toYaml . | nindent 12 }}
          {{- end }}
          ports:
            - containerPort: {{ int $root.Values.metricsAddr }}
              name: metrics
              protocol: TCP
          {{- if not $windows }}
          securityContext:
            {{- if $values.privileged }}
            privileged: true
            {{- else }}
            allowPrivilegeEscalation: false
            seccompProfile:
              type: RuntimeDefault
            {{- end }}
            readOnlyRootFilesystem: true
            runAsUser: 0
            capabilities:
              drop:
                - ALL
          {{- end }}
          volumeMounts:
            - name: providervol
              mountPath: {{ if $windows }}C:\provider{{ else }}/provider{{ end }}
            - name: cluster-ca
              mountPath: /var/run/secrets/kubernetes.io/serviceaccount
              readOnly: true
            {{- if $root.Values.policy }}
            - name: policy
              mountPath: {{ if $windows }}C:\etc\akvfs{{ else }}/etc/akvfs{{ end }}
              readOnly: true
            {{- end }}
            {{- if $write }}
            - name: pods
              mountPath: {{ $pods | quote }}
              {{- if not $windows }}
              mountPropagation: HostToContainer
              {{- end }}
            {{- end }}
            {{- if $proxyCert }}
            - name: proxy-cert
              mountPath: /etc/ssl/certs/proxy-cert.crt
              subPath: proxy-cert.crt
              readOnly: true
            {{- end }}
            {{- with $values.volumeMounts }}
            {{- toYaml . | nindent 12 }}
            {{- end }}
      volumes:
        - name: providervol
          hostPath:
            path: {{ $values.providersDir | quote }}
            {{- if $windows }}
            type: DirectoryOrCreate
            {{- end }}
        - name: cluster-ca
          configMap:
            name: kube-root-ca.crt
            optional: true
        {{- if $root.Values.policy }}
        - name: policy
          configMap:
            name: {{ include "akvfs.policyName" $root }}
        {{- end }}
        {{- if $write }}
        - name: pods
          hostPath:
            path: {{ $pods | quote }}
            type: Directory
        {{- end }}
        {{- if $proxyCert }}
        - name: proxy-cert
          secret:
            secretName: arc-proxy-cert
        {{- end }}
        {{- with $values.volumes }}
        {{- toYaml . | nindent 8 }}
        {{- end }}
      {{- with $values.affinity }}
      affinity:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      {{- with $values.tolerations }}
      tolerations:
        {{- toYaml . | nindent 8 }}
      {{- end }}
      nodeSelector:
        {{- toYaml (merge (dict "kubernetes.io/os" .os) (default dict $values.nodeSelector)) | nindent 8 }}
{{- end -}}

{{- define "akvfs.policyName" -}}
{{ include "akvfs.fullname" . | trunc 56 | trimSuffix "-" }}-policy
{{- end -}}
